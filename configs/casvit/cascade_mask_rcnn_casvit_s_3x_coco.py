# Cascade Mask R-CNN + CAS-ViT-S on COCO, 36 epochs, multi-scale. Recipe: Swin's stands in; none is published.
_base_ = '../cascade_mask_rcnn_atmnet_t_3x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.CASViT',
        arch='s',
        drop_path_rate=0.0,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/casvit_s_in1k.pth'),
    ),
    neck=dict(in_channels=[48, 64, 128, 256]),
)
