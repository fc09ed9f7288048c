# Semantic FPN + ATMNet-L on ADE20K, 40k iterations. Recipe: PVT's stands in; iterations and heads are published.
_base_ = './semantic_fpn_atmnet_t_ade20k.py'
model = dict(
    backbone=dict(arch='l', drop_path_rate=0.1, init_cfg=dict(checkpoint='checkpoints/atmnet_l_in1k.pth')),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
