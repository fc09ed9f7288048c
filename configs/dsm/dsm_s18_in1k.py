# DSM reading-S18 on ImageNet-1K, 300 epochs at 224x224. Recipe: ATMNet's stands in.
_base_ = '../atmnet_t_in1k.py'
model = dict(
    backbone=dict(_delete_=True, type='mmatm.DSM', arch='s18', drop_path_rate=0.1, out_indices=(3,)),
    head=dict(in_channels=512),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(_delete_=True)))
