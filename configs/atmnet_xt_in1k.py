# ATMNet-xT on ImageNet-1K, 300 epochs at 224x224. Recipe: published by the authors.
_base_ = './atmnet_t_in1k.py'
model = dict(backbone=dict(arch='xt', drop_path_rate=0.1))
