# Semantic FPN + TransXNet-B on ADE20K, 80k iterations. Recipe: published by the authors.
_base_ = './semantic_fpn_transxnet_t_ade20k.py'
model = dict(
    backbone=dict(arch='b', drop_path_rate=0.3, init_cfg=dict(checkpoint='checkpoints/transxnet_b_in1k.pth')),
    neck=dict(in_channels=[76, 152, 336, 672]),
)
