# Semantic FPN + AFFNet-T on ADE20K, 40k iterations. Recipe: PVT's stands in; none is published.
_base_ = './semantic_fpn_affnet_et_ade20k.py'
model = dict(
    backbone=dict(arch='t', init_cfg=dict(checkpoint='checkpoints/affnet_t_in1k.pth')),
    neck=dict(in_channels=[48, 96, 160, 192]),
)
