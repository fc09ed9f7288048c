# Mask R-CNN + FFNet-1 on COCO, 12 epochs at 800x1333. Recipe: Swin's stands in; none is published.
_base_ = '../mask_rcnn_atmnet_t_1x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.FFNet',
        arch='1',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/ffnet_1_distilled_in1k.pth'),
    ),
    neck=dict(in_channels=[80, 160, 320, 640]),
)
