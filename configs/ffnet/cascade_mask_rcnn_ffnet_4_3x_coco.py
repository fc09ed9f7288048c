# Cascade Mask R-CNN + FFNet-4 on COCO, 36 epochs, multi-scale. Recipe: published by the authors.
_base_ = './cascade_mask_rcnn_ffnet_1_3x_coco.py'
model = dict(
    backbone=dict(arch='4', drop_path_rate=0.6, init_cfg=dict(checkpoint='checkpoints/ffnet_4_384_in1k.pth')),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
