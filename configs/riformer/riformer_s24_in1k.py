# RIFormer-S24 on ImageNet-1K, 300 epochs at 224x224. Recipe: MMPretrain's, published.
_base_ = 'mmpretrain::riformer/riformer-s24_8xb128_in1k.py'
model = dict(backbone=dict(type='mmatm.RIFormer', out_indices=(3,)))
