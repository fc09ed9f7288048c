# Semantic FPN + AFFNet-BASE on ADE20K, 40k iterations. Recipe: PVT's stands in; none is published.
_base_ = './semantic_fpn_affnet_et_ade20k.py'
model = dict(
    backbone=dict(arch='base', init_cfg=dict(checkpoint='checkpoints/affnet_base_in1k.pth')),
    neck=dict(in_channels=[64, 128, 256, 320]),
)
