# TransXNet-B on ImageNet-1K, 300 epochs at 224x224. Recipe: ATMNet's stands in.
_base_ = './transxnet_t_in1k.py'
model = dict(backbone=dict(arch='b', drop_path_rate=0.3), head=dict(in_channels=672))
