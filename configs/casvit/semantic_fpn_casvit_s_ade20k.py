# Semantic FPN + CAS-ViT-S on ADE20K, 40k iterations. Recipe: published by the authors.
_base_ = '../semantic_fpn_atmnet_t_ade20k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.CASViT',
        arch='s',
        drop_path_rate=0.0,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/casvit_s_in1k.pth'),
    ),
    neck=dict(in_channels=[48, 64, 128, 256]),
)
