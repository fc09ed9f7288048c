# RetinaNet + FFNet-4 on COCO, 12 epochs at 800x1333. Recipe: PVT's stands in; none is published.
_base_ = './retinanet_ffnet_1_1x_coco.py'
model = dict(
    backbone=dict(arch='4', drop_path_rate=0.3, init_cfg=dict(checkpoint='checkpoints/ffnet_4_384_in1k.pth')),
    neck=dict(in_channels=[256, 512, 1024]),
)
