# RetinaNet + CDFFormer-S36 on COCO, 12 epochs at 800x1333. Recipe: published by the authors.
_base_ = './retinanet_cdfformer_s18_1x_coco.py'
model = dict(
    backbone=dict(arch='s36', init_cfg=dict(checkpoint='checkpoints/cdfformer_s36_in1k.pth')),
    neck=dict(in_channels=[128, 320, 512]),
)
