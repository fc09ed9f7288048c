# Semantic FPN + RIFormer-M48 on ADE20K, 40k iterations. Recipe: PVT's stands in; none is published.
_base_ = './semantic_fpn_riformer_s12_ade20k.py'
model = dict(
    backbone=dict(arch='m48', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/riformer_m48_in1k.pth')),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
