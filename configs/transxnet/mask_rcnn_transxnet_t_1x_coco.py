# Mask R-CNN + TransXNet-T on COCO, 12 epochs at 800x1333. Recipe: published by the authors.
_base_ = '../mask_rcnn_atmnet_t_1x_coco.py'
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
# No decay where the authors' names hold "norm", which their batch norms beside convolutions do not.
optim_wrapper = dict(
    paramwise_cfg=dict(
        _delete_=True,
        custom_keys={
            **{f'norm{i}': dict(decay_mult=0.0) for i in range(4)},
            'mlp.norm1': dict(decay_mult=1.0),
        },
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
