# CDFFormer-S18 on ImageNet-1K, 300 epochs at 224x224. Recipe: ATMNet's stands in.
_base_ = '../atmnet_t_in1k.py'
model = dict(
    backbone=dict(
        _delete_=True, type='mmatm.CDFFormer', arch='s18', drop_path_rate=0.1, out_indices=(3,), out_norms=False
    ),
    neck=dict(_delete_=True, type='mmatm.PooledMlp', channels=512, out_channels=2048),
    head=dict(in_channels=2048),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(_delete_=True)))
