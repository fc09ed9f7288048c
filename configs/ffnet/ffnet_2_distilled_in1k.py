# FFNet-2 on ImageNet-1K at 256x256, for the authors' distilled checkpoint. Recipe: none; it only tests.
_base_ = './ffnet_2_in1k.py'
train_cfg = None
train_dataloader = None
optim_wrapper = None
param_scheduler = None
