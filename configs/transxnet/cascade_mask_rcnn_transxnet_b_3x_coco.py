# Cascade Mask R-CNN + TransXNet-B on COCO, 36 epochs, multi-scale. Recipe: Swin's stands in; none is published.
_base_ = './cascade_mask_rcnn_transxnet_t_3x_coco.py'
model = dict(
    backbone=dict(arch='b', drop_path_rate=0.3, init_cfg=dict(checkpoint='checkpoints/transxnet_b_in1k.pth')),
    neck=dict(in_channels=[76, 152, 336, 672]),
)
