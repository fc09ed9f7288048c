# CDFFormer-M36 on ImageNet-1K, 300 epochs at 224x224. Recipe: ATMNet's stands in.
_base_ = './cdfformer_s18_in1k.py'
model = dict(
    backbone=dict(arch='m36', drop_path_rate=0.3),
    neck=dict(channels=576, out_channels=2304),
    head=dict(in_channels=2304),
)
