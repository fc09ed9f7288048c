# Mask R-CNN + DSM reading-S36 on COCO, 12 epochs at 800x1333. Recipe: Swin's stands in; none is published.
_base_ = './mask_rcnn_dsm_s18_1x_coco.py'
model = dict(
    backbone=dict(arch='s36', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/backbone_s36_in1k.pth')),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
