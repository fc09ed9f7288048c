# Cascade Mask R-CNN + TransXNet-T on COCO, 36 epochs, multi-scale. Recipe: Swin's stands in; none is published.
_base_ = '../cascade_mask_rcnn_atmnet_t_3x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.TransXNet',
        arch='t',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/transxnet_t_in1k.pth'),
    ),
    neck=dict(in_channels=[48, 96, 224, 448]),
)
