# UperNet + TransXNet-B on ADE20K, 160k iterations. Recipe: ATMNet's stands in; none is published.
_base_ = './upernet_transxnet_t_ade20k.py'
model = dict(
    backbone=dict(arch='b', drop_path_rate=0.3, init_cfg=dict(checkpoint='checkpoints/transxnet_b_in1k.pth')),
    decode_head=dict(in_channels=[76, 152, 336, 672]),
    auxiliary_head=dict(in_channels=336),
)
