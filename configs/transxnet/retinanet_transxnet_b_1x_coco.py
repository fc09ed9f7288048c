# RetinaNet + TransXNet-B on COCO, 12 epochs at 800x1333. Recipe: published by the authors.
_base_ = './retinanet_transxnet_t_1x_coco.py'
model = dict(
    backbone=dict(arch='b', drop_path_rate=0.3, init_cfg=dict(checkpoint='checkpoints/transxnet_b_in1k.pth')),
    neck=dict(in_channels=[152, 336, 672]),
)
