# Cascade Mask R-CNN + RIFormer-S36 on COCO, 36 epochs, multi-scale. Recipe: Swin's stands in; none is published.
_base_ = './cascade_mask_rcnn_riformer_s12_3x_coco.py'
model = dict(
    backbone=dict(arch='s36', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/riformer_s36_in1k.pth')),
)
