# UperNet + RIFormer-S36 on ADE20K, 160k iterations. Recipe: ATMNet's stands in; none is published.
_base_ = './upernet_riformer_s12_ade20k.py'
model = dict(
    backbone=dict(arch='s36', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/riformer_s36_in1k.pth')),
)
