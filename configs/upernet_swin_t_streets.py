# UperNet + MMSegmentation's Swin-T on street scenes, from scratch.
_base_ = ['mmseg::_base_/models/upernet_swin.py', './_base_/streets.py']
model = dict(
    data_preprocessor=dict(size=(176, 176)),
    backbone=dict(drop_path_rate=0.1),
    decode_head=dict(in_channels=[96, 192, 384, 768], num_classes=11),
    auxiliary_head=dict(in_channels=384, num_classes=11),
)
