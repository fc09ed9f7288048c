# Semantic FPN + RIFormer-S36 on ADE20K, 40k iterations. Recipe: PVT's stands in; none is published.
_base_ = './semantic_fpn_riformer_s12_ade20k.py'
model = dict(
    backbone=dict(arch='s36', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/riformer_s36_in1k.pth')),
)
