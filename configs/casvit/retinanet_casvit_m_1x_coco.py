# RetinaNet + CAS-ViT-M on COCO, 12 epochs at 800x1333. Recipe: published by the authors.
_base_ = './retinanet_casvit_s_1x_coco.py'
model = dict(
    backbone=dict(arch='m', drop_path_rate=0.1, init_cfg=dict(checkpoint='checkpoints/casvit_m_in1k.pth')),
    neck=dict(in_channels=[96, 192, 384]),
)
