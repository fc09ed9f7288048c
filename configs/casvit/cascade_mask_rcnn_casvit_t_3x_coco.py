# Cascade Mask R-CNN + CAS-ViT-T on COCO, 36 epochs, multi-scale. Recipe: Swin's stands in; none is published.
_base_ = './cascade_mask_rcnn_casvit_s_3x_coco.py'
model = dict(
    backbone=dict(arch='t', drop_path_rate=0.1, init_cfg=dict(checkpoint='checkpoints/casvit_t_in1k.pth')),
    neck=dict(in_channels=[96, 128, 256, 512]),
)
