# AFFNet-ET on ImageNet-1K, 300 epochs at 256x256. Recipe: ATMNet's stands in.
_base_ = '../atmnet_t_in1k.py'
model = dict(
    backbone=dict(_delete_=True, type='mmatm.AFFNet', arch='et', drop_path_rate=0.0, out_indices=(3,)),
    neck=dict(_delete_=True, type='mmatm.ConvPooling', channels=144, out_channels=576),
    head=dict(in_channels=576),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(_delete_=True)))

train_pipeline = _base_.train_dataloader.dataset.pipeline
train_pipeline[1]['scale'] = 256
test_pipeline = _base_.test_dataloader.dataset.pipeline
test_pipeline[1]['scale'] = 288
test_pipeline[2]['crop_size'] = 256
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
