# UperNet + MetaFormer-S12 on the street scenes in data/streets at their full size, from scratch, for a GPU.
_base_ = './upernet_metaformer_mini_streets.py'

channels = [64, 128, 320, 512]
crop_size = (352, 352)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(arch='s12', image_size=352),
    decode_head=dict(in_channels=channels, channels=256),
    auxiliary_head=dict(in_channels=channels[2], channels=128),
)
train_dataloader = dict(
    num_workers=2,
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='RandomResize', scale=(480, 360), ratio_range=(1.0, 1.5), keep_ratio=True),
            dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    ),
)
val_dataloader = dict(
    dataset=dict(
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
    ),
)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=1e-3))
