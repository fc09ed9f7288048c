# Mask R-CNN + ATMNet-L on COCO, 12 epochs at 800x1333. Recipe: Swin's stands in; epochs and scale are published.
_base_ = './mask_rcnn_atmnet_t_1x_coco.py'
model = dict(
    backbone=dict(arch='l', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/atmnet_l_in1k.pth')),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
