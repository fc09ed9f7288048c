# RetinaNet + AFFNet-T on COCO, 12 epochs at 800x1333. Recipe: PVT's stands in; none is published.
_base_ = './retinanet_affnet_et_1x_coco.py'
model = dict(
    backbone=dict(arch='t', init_cfg=dict(checkpoint='checkpoints/affnet_t_in1k.pth')),
    neck=dict(in_channels=[96, 160, 192]),
)
