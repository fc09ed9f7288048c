# Semantic FPN + DFFormer-S18 on ADE20K, 40k iterations. Recipe: published by the authors.
_base_ = '../semantic_fpn_atmnet_t_ade20k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.DFFormer',
        arch='s18',
        bank_size=512,  # as the authors' segmenters
        drop_path_rate=0.0,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/dfformer_s18_in1k.pth'),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
