# Semantic FPN + FFNet-4 on ADE20K, 40k iterations. Recipe: PVT's stands in; none is published.
_base_ = './semantic_fpn_ffnet_1_ade20k.py'
model = dict(
    backbone=dict(arch='4', drop_path_rate=0.3, init_cfg=dict(checkpoint='checkpoints/ffnet_4_384_in1k.pth')),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
