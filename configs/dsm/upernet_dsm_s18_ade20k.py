# UperNet + DSM reading-S18 on ADE20K, 160k iterations. Recipe: ATMNet's stands in; none is published.
_base_ = '../upernet_atmnet_t_ade20k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.DSM',
        arch='s18',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/backbone_s18_in1k.pth'),
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
