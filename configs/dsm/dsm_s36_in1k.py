# DSM reading-S36 on ImageNet-1K, 300 epochs at 224x224. Recipe: ATMNet's stands in.
_base_ = './dsm_s18_in1k.py'
model = dict(
    backbone=dict(arch='s36', drop_path_rate=0.2),
    head=dict(in_channels=512),
)
