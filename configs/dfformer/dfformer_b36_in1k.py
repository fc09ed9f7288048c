# DFFormer-B36 on ImageNet-1K, 300 epochs at 224x224. Recipe: ATMNet's stands in.
_base_ = './dfformer_s18_in1k.py'
model = dict(
    backbone=dict(arch='b36', drop_path_rate=0.3),
    neck=dict(channels=768, out_channels=3072),
    head=dict(in_channels=3072),
)
