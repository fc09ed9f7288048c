# AFFNet-BASE on ImageNet-1K, 300 epochs at 256x256. Recipe: ATMNet's stands in.
_base_ = './affnet_et_in1k.py'
model = dict(
    backbone=dict(arch='base'),
    neck=dict(channels=320, out_channels=960),
    head=dict(in_channels=960),
)
