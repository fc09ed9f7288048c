# UperNet + CAS-ViT-XS on ADE20K, 160k iterations. Recipe: ATMNet's stands in; none is published.
_base_ = './upernet_casvit_s_ade20k.py'
model = dict(
    backbone=dict(arch='xs', drop_path_rate=0.0, init_cfg=dict(checkpoint='checkpoints/casvit_xs_in1k.pth')),
    decode_head=dict(in_channels=[48, 56, 112, 220]),
    auxiliary_head=dict(in_channels=112),
)
