# CAS-ViT-S on ImageNet-1K, 300 epochs at 224x224. Recipe: ATMNet's stands in.
_base_ = '../atmnet_t_in1k.py'
model = dict(
    # Trained from scratch, with the statistics of its batches.
    backbone=dict(_delete_=True, type='mmatm.CASViT', arch='s', drop_path_rate=0.0, out_indices=(3,), norm_eval=False),
    head=dict(in_channels=256),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(_delete_=True)))
