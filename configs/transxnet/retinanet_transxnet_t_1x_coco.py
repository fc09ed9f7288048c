# RetinaNet + TransXNet-T on COCO, 12 epochs at 800x1333. Recipe: published by the authors.
_base_ = '../retinanet_atmnet_t_1x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.TransXNet',
        arch='t',
        drop_path_rate=0.1,
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/transxnet_t_in1k.pth'),
    ),
    neck=dict(in_channels=[96, 224, 448]),
)
