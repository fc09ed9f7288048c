# Cascade Mask R-CNN + RIFormer-S12 on COCO, 36 epochs, multi-scale. Recipe: Swin's stands in; none is published.
_base_ = '../cascade_mask_rcnn_atmnet_t_3x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.RIFormer',
        arch='s12',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/riformer_s12_in1k.pth'),
    ),
)
