# UperNet + MMSegmentation's ResNet-50 on street scenes, from scratch.
_base_ = ['mmseg::_base_/models/upernet_r50.py', './_base_/streets.py']
model = dict(
    data_preprocessor=dict(size=(176, 176)),
    pretrained=None,
    decode_head=dict(num_classes=11),
    auxiliary_head=dict(num_classes=11),
)
