# Mask R-CNN + FFNet-2 on COCO, 12 epochs at 800x1333. Recipe: Swin's stands in; none is published.
_base_ = './mask_rcnn_ffnet_1_1x_coco.py'
model = dict(
    backbone=dict(arch='2', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/ffnet_2_distilled_in1k.pth')),
    neck=dict(in_channels=[88, 176, 352, 704]),
)
