# RetinaNet + DSM reading-S36 on COCO, 12 epochs at 800x1333. Recipe: PVT's stands in; none is published.
_base_ = './retinanet_dsm_s18_1x_coco.py'
model = dict(
    backbone=dict(arch='s36', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/backbone_s36_in1k.pth')),
    neck=dict(in_channels=[128, 320, 512]),
)
