# RetinaNet + AFFNet-ET on COCO, 12 epochs at 800x1333. Recipe: PVT's stands in; none is published.
_base_ = '../retinanet_atmnet_t_1x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.AFFNet',
        arch='et',
        drop_path_rate=0.0,
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/affnet_et_in1k.pth'),
    ),
    neck=dict(in_channels=[64, 104, 144]),
)
