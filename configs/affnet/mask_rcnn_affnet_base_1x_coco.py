# Mask R-CNN + AFFNet-BASE on COCO, 12 epochs at 800x1333. Recipe: Swin's stands in; none is published.
_base_ = './mask_rcnn_affnet_et_1x_coco.py'
model = dict(
    backbone=dict(arch='base', init_cfg=dict(checkpoint='checkpoints/affnet_base_in1k.pth')),
    neck=dict(in_channels=[64, 128, 256, 320]),
)
