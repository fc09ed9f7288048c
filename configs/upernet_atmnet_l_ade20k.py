# UperNet + ATMNet-L on ADE20K, 160k iterations. Recipe: published by the authors.
_base_ = './upernet_atmnet_t_ade20k.py'
model = dict(
    backbone=dict(arch='l', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/atmnet_l_in1k.pth')),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
