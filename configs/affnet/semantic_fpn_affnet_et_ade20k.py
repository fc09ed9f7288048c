# Semantic FPN + AFFNet-ET on ADE20K, 40k iterations. Recipe: PVT's stands in; none is published.
_base_ = '../semantic_fpn_atmnet_t_ade20k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.AFFNet',
        arch='et',
        drop_path_rate=0.0,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/affnet_et_in1k.pth'),
    ),
    neck=dict(in_channels=[48, 64, 104, 144]),
)
