# Semantic FPN + DSM reading-S18 on ADE20K, 40k iterations. Recipe: PVT's stands in; none is published.
_base_ = '../semantic_fpn_atmnet_t_ade20k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.DSM',
        arch='s18',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/backbone_s18_in1k.pth'),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
