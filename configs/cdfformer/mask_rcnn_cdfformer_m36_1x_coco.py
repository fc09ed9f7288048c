# Mask R-CNN + CDFFormer-M36 on COCO, 12 epochs at 800x1333. Recipe: Swin's stands in; none is published.
_base_ = './mask_rcnn_cdfformer_s18_1x_coco.py'
model = dict(
    backbone=dict(arch='m36', drop_path_rate=0.3, init_cfg=dict(checkpoint='checkpoints/cdfformer_m36_in1k.pth')),
    neck=dict(in_channels=[96, 192, 384, 576]),
)
