# Mask R-CNN + TransXNet-S on COCO, 12 epochs at 800x1333. Recipe: published by the authors.
_base_ = './mask_rcnn_transxnet_t_1x_coco.py'
model = dict(
    backbone=dict(arch='s', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/transxnet_s_in1k.pth')),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
