# UperNet + RIFormer-S12 on ADE20K, 160k iterations. Recipe: ATMNet's stands in; none is published.
_base_ = '../upernet_atmnet_t_ade20k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.RIFormer',
        arch='s12',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/riformer_s12_in1k.pth'),
    ),
)
