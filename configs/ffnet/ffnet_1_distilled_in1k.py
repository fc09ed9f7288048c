# FFNet-1 on ImageNet-1K at 256x256, for the authors' distilled checkpoint. Recipe: none; it only tests.
_base_ = './ffnet_1_in1k.py'
train_cfg = None
train_dataloader = None
optim_wrapper = None
param_scheduler = None
