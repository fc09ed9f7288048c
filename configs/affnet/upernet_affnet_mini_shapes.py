# UperNet + a small AFFNet on the images of shapes (tools/make_shapes.py), from scratch, minutes on two CPU cores.
_base_ = '../upernet_atmnet_mini_shapes.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.AFFNet',
        arch=dict(
            depths=[3, 2, 4, 2],
            channels=[32, 64, 96, 128],
            stem_channels=32,
            expansion=4,
            act='silu',
            attn_norm='group_norm',
        ),
    ),
)
