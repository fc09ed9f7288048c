# Cascade Mask R-CNN + FFNet-1 on COCO, 36 epochs, multi-scale. Recipe: the larger ones' stands in.
_base_ = '../cascade_mask_rcnn_atmnet_t_3x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.FFNet',
        arch='1',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/ffnet_1_distilled_in1k.pth'),
    ),
    neck=dict(in_channels=[80, 160, 320, 640]),
)
optim_wrapper = dict(
    constructor='mmatm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, layer_decay_rate=0.8, layers='published'),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
