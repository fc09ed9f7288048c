# A small ATMNet that classifies the images of shapes (tools/make_shapes.py), from scratch, minutes on two CPU cores.
_base_ = './atmnet_t_in1k.py'

from mmatm.datasets.shapes import SHAPES  # noqa: E402

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.ATMNet',
        arch=dict(
            depths=[2, 2, 4, 2],
            channels=[32, 64, 96, 128],
            mlp_ratios=[4, 4, 4, 4],
            channels_per_offset=[2, 4, 4, 8],
            offset_interval=2,
        ),
        drop_path_rate=0.0,
        out_indices=(3,),
    ),
    head=dict(in_channels=128, num_classes=len(SHAPES)),
    train_cfg=None,
)
data_preprocessor = dict(num_classes=len(SHAPES))

dataset = dict(_delete_=True, type='CustomDataset', data_root='data/shapes/imagenet', classes=sorted(SHAPES))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=16, num_workers=1, dataset=dict(**dataset, data_prefix='train', pipeline=train_pipeline)
)
val_dataloader = dict(num_workers=1, dataset=dict(**dataset, data_prefix='val', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(topk=1)
test_evaluator = val_evaluator

auto_scale_lr = dict(base_batch_size=16)
optim_wrapper = dict(optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=True, begin=0, end=30, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=30, val_interval=10)
custom_hooks = [dict(type='EMAHook', momentum=0.02, priority='ABOVE_NORMAL')]
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=2))
