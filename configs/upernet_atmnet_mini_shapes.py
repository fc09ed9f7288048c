# UperNet + a small ATMNet on the images of shapes (tools/make_shapes.py), from scratch, minutes on two CPU cores.
_base_ = './upernet_atmnet_t_ade20k.py'

from mmatm.datasets.shapes import PALETTE, SEMANTIC_CLASSES  # noqa: E402

channels = [32, 64, 96, 128]
model = dict(
    data_preprocessor=dict(size=(96, 96)),
    backbone=dict(
        _delete_=True,
        type='mmatm.ATMNet',
        arch=dict(
            depths=[2, 2, 4, 2],
            channels=channels,
            mlp_ratios=[4, 4, 4, 4],
            channels_per_offset=[2, 4, 4, 8],
            offset_interval=2,
        ),
        drop_path_rate=0.0,
    ),
    decode_head=dict(
        in_channels=channels,
        channels=64,
        dropout_ratio=0.0,
        num_classes=len(SEMANTIC_CLASSES),
    ),
    auxiliary_head=dict(
        in_channels=channels[2],
        channels=32,
        dropout_ratio=0.0,
        num_classes=len(SEMANTIC_CLASSES),
    ),
)

dataset = dict(
    type='BaseSegDataset',
    data_root='data/shapes/ade',
    metainfo=dict(classes=SEMANTIC_CLASSES, palette=PALETTE),
    reduce_zero_label=True,
)
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        _delete_=True,
        **dataset,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
            dict(type='PackSegInputs'),
        ],
    ),
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        _delete_=True,
        **dataset,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    ),
)
test_dataloader = val_dataloader

auto_scale_lr = dict(base_batch_size=8)
optim_wrapper = dict(
    optimizer=dict(lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=50, end=1200),
]
train_cfg = dict(max_iters=1200, val_interval=400)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=400, max_keep_ckpts=2))
