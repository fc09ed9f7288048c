# RIFormer-M48 on ImageNet-1K, 300 epochs at 224x224. Recipe: MMPretrain's, published.
_base_ = 'mmpretrain::riformer/riformer-m48_8xb64_in1k.py'
model = dict(backbone=dict(type='mmatm.RIFormer', out_indices=(3,)))
