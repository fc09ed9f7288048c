# Cascade Mask R-CNN + FFNet-3 on COCO, 36 epochs, multi-scale. Recipe: published by the authors.
_base_ = './cascade_mask_rcnn_ffnet_1_3x_coco.py'
model = dict(
    backbone=dict(arch='3', drop_path_rate=0.6, init_cfg=dict(checkpoint='checkpoints/ffnet_3_distilled_in1k.pth')),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
