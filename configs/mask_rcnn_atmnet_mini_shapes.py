# Mask R-CNN + a small ATMNet on the images of shapes (tools/make_shapes.py), from scratch, minutes on two CPU cores.
_base_ = './mask_rcnn_atmnet_t_1x_coco.py'

from mmatm.datasets.shapes import PALETTE, SHAPES  # noqa: E402

channels = [32, 64, 96, 128]
width = 64
box_head = dict(in_channels=width, fc_out_channels=256, num_classes=len(SHAPES))
model = dict(
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
    neck=dict(in_channels=channels, out_channels=width),
    rpn_head=dict(in_channels=width, feat_channels=width, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width),
        bbox_head=box_head,
        mask_roi_extractor=dict(out_channels=width),
        mask_head=dict(in_channels=width, conv_out_channels=width, num_classes=len(SHAPES)),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
dataset = dict(data_root='data/shapes/coco/', metainfo=dict(classes=SHAPES, palette=list(PALETTE[: len(SHAPES)])))
train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(**dataset, pipeline=train_pipeline))
val_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(**dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/shapes/coco/annotations/instances_val2017.json')
test_evaluator = val_evaluator

auto_scale_lr = dict(base_batch_size=8)
optim_wrapper = dict(optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=True, begin=0, end=30, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=30, val_interval=10)
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=2))
