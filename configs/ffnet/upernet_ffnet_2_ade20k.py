# UperNet + FFNet-2 on ADE20K, 160k iterations. Recipe: published by the authors.
_base_ = './upernet_ffnet_1_ade20k.py'
model = dict(
    backbone=dict(arch='2', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/ffnet_2_distilled_in1k.pth')),
    decode_head=dict(in_channels=[88, 176, 352, 704]),
    auxiliary_head=dict(in_channels=352),
)
