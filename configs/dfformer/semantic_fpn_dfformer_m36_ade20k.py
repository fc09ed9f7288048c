# Semantic FPN + DFFormer-M36 on ADE20K, 40k iterations. Recipe: published by the authors.
_base_ = './semantic_fpn_dfformer_s18_ade20k.py'
model = dict(
    backbone=dict(arch='m36', init_cfg=dict(checkpoint='checkpoints/dfformer_m36_in1k.pth')),
    neck=dict(in_channels=[96, 192, 384, 576]),
)
