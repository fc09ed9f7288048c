# RIFormer-M48 on ImageNet-1K, 300 epochs at 224x224. Recipe: MMPretrain's, published.
_base_ = 'mmpretrain::riformer/riformer-m48_8xb64_in1k.py'
model = dict(backbone=dict(_delete_=True, type='mmatm.RIFormer', arch='m48', drop_path_rate=0.1, out_indices=(3,)))
