# ATMNet-S on ImageNet-1K, 300 epochs at 224x224. Recipe: published by the authors; drop path 0.2 stands in.
_base_ = './atmnet_t_in1k.py'
model = dict(backbone=dict(arch='s', drop_path_rate=0.2))
