# RIFormer-S12 on ImageNet-1K, 300 epochs at 224x224. Recipe: MMPretrain's, published.
_base_ = 'mmpretrain::riformer/riformer-s12_8xb128_in1k.py'
model = dict(backbone=dict(_delete_=True, type='mmatm.RIFormer', arch='s12', drop_path_rate=0.1, out_indices=(3,)))
