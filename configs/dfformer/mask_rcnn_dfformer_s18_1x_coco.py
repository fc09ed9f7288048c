# Mask R-CNN + DFFormer-S18 on COCO, 12 epochs at 800x1333. Recipe: Swin's stands in; none is published.
_base_ = '../mask_rcnn_atmnet_t_1x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.DFFormer',
        arch='s18',
        bank_size=800,  # as the authors' detectors
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/dfformer_s18_in1k.pth'),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
