# Cascade Mask R-CNN + FFNet-2 on COCO, 36 epochs, multi-scale. Recipe: published by the authors.
_base_ = './cascade_mask_rcnn_ffnet_1_3x_coco.py'
model = dict(
    backbone=dict(arch='2', drop_path_rate=0.35, init_cfg=dict(checkpoint='checkpoints/ffnet_2_distilled_in1k.pth')),
    neck=dict(in_channels=[88, 176, 352, 704]),
)
