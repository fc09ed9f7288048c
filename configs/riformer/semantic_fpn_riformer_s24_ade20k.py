# Semantic FPN + RIFormer-S24 on ADE20K, 40k iterations. Recipe: PVT's stands in; none is published.
_base_ = './semantic_fpn_riformer_s12_ade20k.py'
model = dict(
    backbone=dict(arch='s24', drop_path_rate=0.1, init_cfg=dict(checkpoint='checkpoints/riformer_s24_in1k.pth')),
)
