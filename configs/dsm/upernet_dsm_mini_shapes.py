# UperNet + a small DSM reading on the images of shapes (tools/make_shapes.py), from scratch, minutes on two CPU cores.
_base_ = '../upernet_atmnet_mini_shapes.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.DSM',
        arch=dict(depths=[2, 2, 4, 2], channels=[32, 64, 96, 128], mlp_ratios=[4, 4, 4, 4], num_bands=8),
    ),
)
