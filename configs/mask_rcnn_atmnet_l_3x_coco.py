# Mask R-CNN + ATMNet-L on COCO, 36 epochs, multi-scale. Recipe: Swin's stands in; epochs and multi-scale are published.
_base_ = './mask_rcnn_atmnet_t_3x_coco.py'
model = dict(
    backbone=dict(arch='l', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/atmnet_l_in1k.pth')),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
