# RetinaNet + RIFormer-S12 on COCO, 12 epochs at 800x1333. Recipe: PVT's stands in; none is published.
_base_ = '../retinanet_atmnet_t_1x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.RIFormer',
        arch='s12',
        drop_path_rate=0.1,
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/riformer_s12_in1k.pth'),
    ),
)
