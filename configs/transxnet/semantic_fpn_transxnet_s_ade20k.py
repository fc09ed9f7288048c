# Semantic FPN + TransXNet-S on ADE20K, 80k iterations. Recipe: published by the authors.
_base_ = './semantic_fpn_transxnet_t_ade20k.py'
model = dict(
    backbone=dict(arch='s', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/transxnet_s_in1k.pth')),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
