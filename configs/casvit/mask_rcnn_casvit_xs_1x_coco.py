# Mask R-CNN + CAS-ViT-XS on COCO, 12 epochs at 800x1333. Recipe: published by the authors.
_base_ = './mask_rcnn_casvit_s_1x_coco.py'
model = dict(
    backbone=dict(arch='xs', drop_path_rate=0.0, init_cfg=dict(checkpoint='checkpoints/casvit_xs_in1k.pth')),
    neck=dict(in_channels=[48, 56, 112, 220]),
)
