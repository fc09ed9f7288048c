# Cascade Mask R-CNN + CAS-ViT-XS on COCO, 36 epochs, multi-scale. Recipe: Swin's stands in; none is published.
_base_ = './cascade_mask_rcnn_casvit_s_3x_coco.py'
model = dict(
    backbone=dict(arch='xs', drop_path_rate=0.0, init_cfg=dict(checkpoint='checkpoints/casvit_xs_in1k.pth')),
    neck=dict(in_channels=[48, 56, 112, 220]),
)
