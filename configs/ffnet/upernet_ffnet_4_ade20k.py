# UperNet + FFNet-4 on ADE20K, 160k iterations. Recipe: published by the authors.
_base_ = './upernet_ffnet_1_ade20k.py'
model = dict(
    backbone=dict(arch='4', drop_path_rate=0.3, init_cfg=dict(checkpoint='checkpoints/ffnet_4_384_in1k.pth')),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9))
