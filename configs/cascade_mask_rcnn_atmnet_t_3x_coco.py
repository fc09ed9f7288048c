# Cascade Mask R-CNN + ATMNet-T on COCO, 36 epochs, multi-scale. Recipe: Swin's stands in.
_base_ = './cascade_mask_rcnn_atmnet_t_1x_coco.py'

from mmengine.hub import get_config  # noqa: E402

swin = get_config('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py')
train_dataloader = dict(dataset=dict(pipeline=swin.train_pipeline))
train_cfg = swin.train_cfg
param_scheduler = swin.param_scheduler
del swin
