# Mask R-CNN + AFFNet-ET on COCO, 12 epochs at 800x1333. Recipe: Swin's stands in; none is published.
_base_ = '../mask_rcnn_atmnet_t_1x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.AFFNet',
        arch='et',
        drop_path_rate=0.0,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/affnet_et_in1k.pth'),
    ),
    neck=dict(in_channels=[48, 64, 104, 144]),
)
