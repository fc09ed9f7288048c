# UperNet + CAS-ViT-T on ADE20K, 160k iterations. Recipe: ATMNet's stands in; none is published.
_base_ = './upernet_casvit_s_ade20k.py'
model = dict(
    backbone=dict(arch='t', drop_path_rate=0.1, init_cfg=dict(checkpoint='checkpoints/casvit_t_in1k.pth')),
    decode_head=dict(in_channels=[96, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
