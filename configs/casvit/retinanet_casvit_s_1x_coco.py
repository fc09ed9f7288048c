# RetinaNet + CAS-ViT-S on COCO, 12 epochs at 800x1333. Recipe: published by the authors.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    '../_base_/casvit_1x.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.CASViT',
        arch='s',
        drop_path_rate=0.0,
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/casvit_s_in1k.pth'),
    ),
    neck=dict(in_channels=[64, 128, 256], start_level=0),
)
train_dataloader = dict(batch_size=4)
