# UperNet + AFFNet-T on ADE20K, 160k iterations. Recipe: ATMNet's stands in; none is published.
_base_ = './upernet_affnet_et_ade20k.py'
model = dict(
    backbone=dict(arch='t', init_cfg=dict(checkpoint='checkpoints/affnet_t_in1k.pth')),
    decode_head=dict(in_channels=[48, 96, 160, 192]),
    auxiliary_head=dict(in_channels=160),
)
