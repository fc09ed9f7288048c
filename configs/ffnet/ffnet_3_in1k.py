# FFNet-3 on ImageNet-1K, 300 epochs at 256x256. Recipe: ATMNet's stands in.
_base_ = './ffnet_1_in1k.py'
model = dict(
    backbone=dict(arch='3', drop_path_rate=0.3),
    neck=dict(channels=768),
    head=dict(in_channels=768),
)
