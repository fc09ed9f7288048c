# RetinaNet + DFFormer-M36 on COCO, 12 epochs at 800x1333. Recipe: published by the authors.
_base_ = './retinanet_dfformer_s18_1x_coco.py'
model = dict(
    backbone=dict(arch='m36', init_cfg=dict(checkpoint='checkpoints/dfformer_m36_in1k.pth')),
    neck=dict(in_channels=[192, 384, 576]),
)
