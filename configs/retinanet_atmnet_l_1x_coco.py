# RetinaNet + ATMNet-L on COCO, 12 epochs at 800x1333. Recipe: PVT's stands in; epochs are published.
_base_ = './retinanet_atmnet_t_1x_coco.py'
model = dict(
    backbone=dict(arch='l', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/atmnet_l_in1k.pth')),
    neck=dict(in_channels=[192, 384, 768]),
)
