# UperNet + a small TransXNet on the images of shapes (tools/make_shapes.py), from scratch, minutes on two CPU cores.
_base_ = '../upernet_atmnet_mini_shapes.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.TransXNet',
        arch=dict(
            depths=[2, 2, 4, 2],
            channels=[32, 64, 96, 128],
            num_heads=[1, 2, 3, 4],
            num_banks=[2, 2, 2, 2],
            sr_ratios=[8, 4, 2, 1],
            mlp_ratios=[4, 4, 4, 4],
            image_size=96,
        ),
    ),
)
