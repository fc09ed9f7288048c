# UperNet + a small CDFFormer on the images of shapes (tools/make_shapes.py), from scratch, minutes on two CPU cores.
_base_ = '../upernet_atmnet_mini_shapes.py'

# Wider than most of the small ones; docs/decisions.md says what narrower ones reached.
channels = [64, 128, 192, 256]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.CDFFormer',
        arch=dict(depths=[2, 2, 4, 2], channels=channels, mlp_ratios=[4, 4, 4, 4], num_filters=4),
        bank_size=96,
    ),
    decode_head=dict(in_channels=channels),
    auxiliary_head=dict(in_channels=channels[2]),
)
