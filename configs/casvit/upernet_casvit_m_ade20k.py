# UperNet + CAS-ViT-M on ADE20K, 160k iterations. Recipe: ATMNet's stands in; none is published.
_base_ = './upernet_casvit_s_ade20k.py'
model = dict(
    backbone=dict(arch='m', drop_path_rate=0.1, init_cfg=dict(checkpoint='checkpoints/casvit_m_in1k.pth')),
    decode_head=dict(in_channels=[64, 96, 192, 384]),
    auxiliary_head=dict(in_channels=192),
)
