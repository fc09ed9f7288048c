# AFFNet-T on ImageNet-1K, 300 epochs at 256x256. Recipe: ATMNet's stands in.
_base_ = './affnet_et_in1k.py'
model = dict(
    backbone=dict(arch='t'),
    neck=dict(channels=192, out_channels=768),
    head=dict(in_channels=768),
)
