# UperNet + TransXNet-T on ADE20K, 160k iterations. Recipe: ATMNet's stands in; none is published.
_base_ = '../upernet_atmnet_t_ade20k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.TransXNet',
        arch='t',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/transxnet_t_in1k.pth'),
    ),
    decode_head=dict(in_channels=[48, 96, 224, 448]),
    auxiliary_head=dict(in_channels=224),
)
