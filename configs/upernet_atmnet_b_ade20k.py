# UperNet + ATMNet-B on ADE20K, 160k iterations. Recipe: the authors published L's; drop path 0.2 stands in here.
_base_ = './upernet_atmnet_t_ade20k.py'
model = dict(backbone=dict(arch='b', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/atmnet_b_in1k.pth')))
