# Semantic FPN + RIFormer-S12 on ADE20K, 40k iterations. Recipe: PVT's stands in; none is published.
_base_ = '../semantic_fpn_atmnet_t_ade20k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.RIFormer',
        arch='s12',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/riformer_s12_in1k.pth'),
    ),
)
