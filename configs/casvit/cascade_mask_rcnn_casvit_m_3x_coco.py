# Cascade Mask R-CNN + CAS-ViT-M on COCO, 36 epochs, multi-scale. Recipe: Swin's stands in; none is published.
_base_ = './cascade_mask_rcnn_casvit_s_3x_coco.py'
model = dict(
    backbone=dict(arch='m', drop_path_rate=0.1, init_cfg=dict(checkpoint='checkpoints/casvit_m_in1k.pth')),
    neck=dict(in_channels=[64, 96, 192, 384]),
)
