# UperNet + RIFormer-M48 on ADE20K, 160k iterations. Recipe: ATMNet's stands in; none is published.
_base_ = './upernet_riformer_s12_ade20k.py'
model = dict(
    backbone=dict(arch='m48', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/riformer_m48_in1k.pth')),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
