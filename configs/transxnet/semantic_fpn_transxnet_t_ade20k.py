# Semantic FPN + TransXNet-T on ADE20K, 80k iterations. Recipe: published by the authors.
_base_ = '../semantic_fpn_atmnet_t_ade20k.py'
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
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=1000),
    dict(type='CosineAnnealingLR', eta_min=1e-8, by_epoch=False, begin=1000, end=80000),
]
train_cfg = dict(max_iters=80000, val_interval=8000)
default_hooks = dict(checkpoint=dict(interval=8000))
