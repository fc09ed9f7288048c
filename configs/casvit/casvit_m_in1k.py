# CAS-ViT-M on ImageNet-1K, 300 epochs at 224x224. Recipe: ATMNet's stands in.
_base_ = './casvit_s_in1k.py'
model = dict(backbone=dict(arch='m', drop_path_rate=0.1), head=dict(in_channels=384))
