# Semantic FPN + FFNet-3 on ADE20K, 40k iterations. Recipe: PVT's stands in; none is published.
_base_ = './semantic_fpn_ffnet_1_ade20k.py'
model = dict(
    backbone=dict(arch='3', drop_path_rate=0.3, init_cfg=dict(checkpoint='checkpoints/ffnet_3_distilled_in1k.pth')),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
