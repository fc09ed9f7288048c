# UperNet + AFFNet-ET on ADE20K, 160k iterations. Recipe: ATMNet's stands in; none is published.
_base_ = '../upernet_atmnet_t_ade20k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.AFFNet',
        arch='et',
        drop_path_rate=0.0,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/affnet_et_in1k.pth'),
    ),
    decode_head=dict(in_channels=[48, 64, 104, 144]),
    auxiliary_head=dict(in_channels=104),
)
