# Cascade Mask R-CNN + TransXNet-S on COCO, 36 epochs, multi-scale. Recipe: Swin's stands in; none is published.
_base_ = './cascade_mask_rcnn_transxnet_t_3x_coco.py'
model = dict(
    backbone=dict(arch='s', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/transxnet_s_in1k.pth')),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
