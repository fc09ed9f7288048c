# RetinaNet + DFFormer-S18 on COCO, 12 epochs at 800x1333. Recipe: published by the authors.
_base_ = '../retinanet_atmnet_t_1x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.DFFormer',
        arch='s18',
        bank_size=800,  # as the authors' detectors
        drop_path_rate=0.0,
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/dfformer_s18_in1k.pth'),
    ),
    neck=dict(in_channels=[128, 320, 512]),
)
# Theirs was in mixed precision; --amp of tools/train.py is so too.
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))
