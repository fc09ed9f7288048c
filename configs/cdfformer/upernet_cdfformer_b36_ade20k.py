# UperNet + CDFFormer-B36 on ADE20K, 160k iterations. Recipe: ATMNet's stands in; none is published.
_base_ = './upernet_cdfformer_s18_ade20k.py'
model = dict(
    backbone=dict(arch='b36', drop_path_rate=0.3, init_cfg=dict(checkpoint='checkpoints/cdfformer_b36_in1k.pth')),
    decode_head=dict(in_channels=[128, 256, 512, 768]),
    auxiliary_head=dict(in_channels=512),
)
