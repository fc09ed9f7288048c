# Semantic FPN + CAS-ViT-T on ADE20K, 40k iterations. Recipe: published by the authors.
_base_ = './semantic_fpn_casvit_s_ade20k.py'
model = dict(
    backbone=dict(arch='t', drop_path_rate=0.1, init_cfg=dict(checkpoint='checkpoints/casvit_t_in1k.pth')),
    neck=dict(in_channels=[96, 128, 256, 512]),
)
