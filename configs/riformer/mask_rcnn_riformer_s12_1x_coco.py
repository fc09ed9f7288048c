# Mask R-CNN + RIFormer-S12 on COCO, 12 epochs at 800x1333. Recipe: Swin's stands in; none is published.
_base_ = '../mask_rcnn_atmnet_t_1x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.RIFormer',
        arch='s12',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/riformer_s12_in1k.pth'),
    ),
)
