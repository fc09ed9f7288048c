# UperNet + ATMNet-xT on ADE20K, 160k iterations. Recipe: the authors published L's; drop path 0.1 stands in here.
_base_ = './upernet_atmnet_t_ade20k.py'
model = dict(backbone=dict(arch='xt', drop_path_rate=0.1, init_cfg=dict(checkpoint='checkpoints/atmnet_xt_in1k.pth')))
