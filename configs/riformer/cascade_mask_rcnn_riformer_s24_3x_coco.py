# Cascade Mask R-CNN + RIFormer-S24 on COCO, 36 epochs, multi-scale. Recipe: Swin's stands in; none is published.
_base_ = './cascade_mask_rcnn_riformer_s12_3x_coco.py'
model = dict(
    backbone=dict(arch='s24', drop_path_rate=0.1, init_cfg=dict(checkpoint='checkpoints/riformer_s24_in1k.pth')),
)
