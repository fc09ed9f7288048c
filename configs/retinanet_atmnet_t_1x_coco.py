# RetinaNet + ATMNet-T on COCO, 12 epochs at 800x1333. Recipe: PVT's stands in; epochs are published.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.ATMNet',
        arch='t',
        drop_path_rate=0.1,
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/atmnet_t_in1k.pth'),
    ),
    neck=dict(in_channels=[128, 320, 512], start_level=0),
)

# 8 GPUs x 2 images, which auto_scale_lr of the base says too
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4),
)
