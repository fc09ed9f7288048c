# RetinaNet + RIFormer-M36 on COCO, 12 epochs at 800x1333. Recipe: PVT's stands in; none is published.
_base_ = './retinanet_riformer_s12_1x_coco.py'
model = dict(
    backbone=dict(arch='m36', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/riformer_m36_in1k.pth')),
    neck=dict(in_channels=[192, 384, 768]),
)
