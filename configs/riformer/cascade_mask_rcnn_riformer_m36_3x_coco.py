# Cascade Mask R-CNN + RIFormer-M36 on COCO, 36 epochs, multi-scale. Recipe: Swin's stands in; none is published.
_base_ = './cascade_mask_rcnn_riformer_s12_3x_coco.py'
model = dict(
    backbone=dict(arch='m36', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/riformer_m36_in1k.pth')),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
