# Mask R-CNN + RIFormer-S36 on COCO, 12 epochs at 800x1333. Recipe: Swin's stands in; none is published.
_base_ = './mask_rcnn_riformer_s12_1x_coco.py'
model = dict(
    backbone=dict(arch='s36', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/riformer_s36_in1k.pth')),
)
