# Semantic FPN + CAS-ViT-XS on ADE20K, 40k iterations. Recipe: published by the authors.
_base_ = './semantic_fpn_casvit_s_ade20k.py'
model = dict(
    backbone=dict(arch='xs', drop_path_rate=0.0, init_cfg=dict(checkpoint='checkpoints/casvit_xs_in1k.pth')),
    neck=dict(in_channels=[48, 56, 112, 220]),
)
