# UperNet + MMPretrain's ConvNeXt-T on street scenes, from scratch.
_base_ = ['mmseg::_base_/models/upernet_convnext.py', './_base_/streets.py']
model = dict(
    data_preprocessor=dict(size=(176, 176)),
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ConvNeXt',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.1,
        gap_before_final_norm=False,
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768], num_classes=11),
    auxiliary_head=dict(in_channels=384, num_classes=11),
)
