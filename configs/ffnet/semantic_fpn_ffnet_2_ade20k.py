# Semantic FPN + FFNet-2 on ADE20K, 40k iterations. Recipe: PVT's stands in; none is published.
_base_ = './semantic_fpn_ffnet_1_ade20k.py'
model = dict(
    backbone=dict(arch='2', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/ffnet_2_distilled_in1k.pth')),
    neck=dict(in_channels=[88, 176, 352, 704]),
)
