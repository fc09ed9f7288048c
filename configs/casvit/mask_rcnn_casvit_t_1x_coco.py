# Mask R-CNN + CAS-ViT-T on COCO, 12 epochs at 800x1333. Recipe: published by the authors.
_base_ = './mask_rcnn_casvit_s_1x_coco.py'
model = dict(
    backbone=dict(arch='t', drop_path_rate=0.1, init_cfg=dict(checkpoint='checkpoints/casvit_t_in1k.pth')),
    neck=dict(in_channels=[96, 128, 256, 512]),
)
