# The schedule of CAS-ViT's detectors, 12 epochs on 8 GPUs x 4 images. Published by the authors.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'
auto_scale_lr = dict(base_batch_size=32)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=1e-4),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
