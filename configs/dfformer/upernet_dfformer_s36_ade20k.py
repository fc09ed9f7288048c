# UperNet + DFFormer-S36 on ADE20K, 160k iterations. Recipe: ATMNet's stands in; none is published.
_base_ = './upernet_dfformer_s18_ade20k.py'
model = dict(
    backbone=dict(arch='s36', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/dfformer_s36_in1k.pth')),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
