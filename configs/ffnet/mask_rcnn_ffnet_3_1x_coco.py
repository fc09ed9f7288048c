# Mask R-CNN + FFNet-3 on COCO, 12 epochs at 800x1333. Recipe: Swin's stands in; none is published.
_base_ = './mask_rcnn_ffnet_1_1x_coco.py'
model = dict(
    backbone=dict(arch='3', drop_path_rate=0.3, init_cfg=dict(checkpoint='checkpoints/ffnet_3_distilled_in1k.pth')),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
