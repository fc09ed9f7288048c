# UperNet + ATMNet-xT on street scenes, from scratch: one recipe for four backbones (tools/dev/compare_streets.py).
_base_ = ['mmseg::_base_/models/upernet_swin.py', './_base_/streets.py']
model = dict(
    data_preprocessor=dict(size=(176, 176)),
    backbone=dict(_delete_=True, type='mmatm.ATMNet', arch='xt', drop_path_rate=0.1),
    decode_head=dict(in_channels=[64, 128, 320, 512], num_classes=11),
    auxiliary_head=dict(in_channels=320, num_classes=11),
)
