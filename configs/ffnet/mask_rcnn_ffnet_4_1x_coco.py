# Mask R-CNN + FFNet-4 on COCO, 12 epochs at 800x1333. Recipe: Swin's stands in; none is published.
_base_ = './mask_rcnn_ffnet_1_1x_coco.py'
model = dict(
    backbone=dict(arch='4', drop_path_rate=0.3, init_cfg=dict(checkpoint='checkpoints/ffnet_4_384_in1k.pth')),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
