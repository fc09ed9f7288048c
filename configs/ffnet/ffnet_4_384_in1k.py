# FFNet-4 on ImageNet-1K at 384x384, from the classifier at 256. Recipe: ATMNet-L's stands in.
_base_ = '../atmnet_l_384_in1k.py'
load_from = 'checkpoints/ffnet_4_in1k.pth'
model = dict(
    backbone=dict(_delete_=True, type='mmatm.FFNet', arch='4', drop_path_rate=0.3, out_indices=(3,), out_norms=False),
    neck=dict(_delete_=True, type='mmatm.NormedPooling', channels=1024),
    head=dict(in_channels=1024),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(_delete_=True)))
