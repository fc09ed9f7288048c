# TransXNet-B on ImageNet-1K at 384x384, from the classifier at 224. Recipe: ATMNet-L's stands in.
_base_ = '../atmnet_l_384_in1k.py'
load_from = 'checkpoints/transxnet_b_in1k.pth'
model = dict(
    backbone=dict(_delete_=True, type='mmatm.TransXNet', arch='b', drop_path_rate=0.3, out_indices=(3,)),
    head=dict(in_channels=672),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(_delete_=True)))
