# TransXNet-T on ImageNet-1K, 300 epochs at 224x224. Recipe: ATMNet's stands in.
_base_ = '../atmnet_t_in1k.py'
model = dict(
    backbone=dict(_delete_=True, type='mmatm.TransXNet', arch='t', drop_path_rate=0.1, out_indices=(3,)),
    head=dict(in_channels=448),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(_delete_=True)))
