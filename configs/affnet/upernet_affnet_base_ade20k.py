# UperNet + AFFNet-BASE on ADE20K, 160k iterations. Recipe: ATMNet's stands in; none is published.
_base_ = './upernet_affnet_et_ade20k.py'
model = dict(
    backbone=dict(arch='base', init_cfg=dict(checkpoint='checkpoints/affnet_base_in1k.pth')),
    decode_head=dict(in_channels=[64, 128, 256, 320]),
    auxiliary_head=dict(in_channels=256),
)
