# RetinaNet + FFNet-3 on COCO, 12 epochs at 800x1333. Recipe: PVT's stands in; none is published.
_base_ = './retinanet_ffnet_1_1x_coco.py'
model = dict(
    backbone=dict(arch='3', drop_path_rate=0.3, init_cfg=dict(checkpoint='checkpoints/ffnet_3_distilled_in1k.pth')),
    neck=dict(in_channels=[192, 384, 768]),
)
