# Semantic FPN + FFNet-1 on ADE20K, 40k iterations. Recipe: PVT's stands in; none is published.
_base_ = '../semantic_fpn_atmnet_t_ade20k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.FFNet',
        arch='1',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/ffnet_1_distilled_in1k.pth'),
    ),
    neck=dict(in_channels=[80, 160, 320, 640]),
)
