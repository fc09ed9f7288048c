# UperNet + a small MetaFormer on the street scenes in data/streets at a quarter of their pixels, from scratch, by the
# recipe of the images of shapes. tools/compare_mixers.py trains it with every token mixer.
_base_ = ['mmseg::_base_/models/upernet_swin.py', '../_base_/streets.py']

channels = [32, 64, 96, 128]
crop_size = (176, 176)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(_delete_=True, type='mmatm.MetaFormer', arch='mini', token_mixer='active', image_size=176),
    decode_head=dict(in_channels=channels, channels=64, dropout_ratio=0.0, num_classes=11),
    auxiliary_head=dict(in_channels=channels[2], channels=32, dropout_ratio=0.0, num_classes=11),
)
train_dataloader = dict(num_workers=1)
val_dataloader = dict(num_workers=1)
test_dataloader = val_dataloader
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
)
default_hooks = dict(logger=dict(interval=50))
