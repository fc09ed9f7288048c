# UperNet + a small FFNet on the images of shapes (tools/make_shapes.py), from scratch, minutes on two CPU cores.
_base_ = '../upernet_atmnet_mini_shapes.py'

channels = [32, 64, 128, 128]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.FFNet',
        arch=dict(
            depths=[2, 2, 4, 2],
            channels=channels,
            stem_channels=32,
            mlp_ratios=[3, 3, 3, 3],
            mixer_kernels=[3, 3, 7, 7],
            mlp_kernels=[7, 7, 7, 7],
            layer_scale=False,
        ),
    ),
    decode_head=dict(in_channels=channels),
    auxiliary_head=dict(in_channels=channels[2]),
)
