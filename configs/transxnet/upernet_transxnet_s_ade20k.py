# UperNet + TransXNet-S on ADE20K, 160k iterations. Recipe: ATMNet's stands in; none is published.
_base_ = './upernet_transxnet_t_ade20k.py'
model = dict(
    backbone=dict(arch='s', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/transxnet_s_in1k.pth')),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
