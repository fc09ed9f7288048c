# CDFFormer-S36 on ImageNet-1K, 300 epochs at 224x224. Recipe: ATMNet's stands in.
_base_ = './cdfformer_s18_in1k.py'
model = dict(
    backbone=dict(arch='s36', drop_path_rate=0.2),
    neck=dict(channels=512, out_channels=2048),
    head=dict(in_channels=2048),
)
