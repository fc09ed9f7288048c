# Cascade Mask R-CNN + ATMNet-xT on COCO, 36 epochs, multi-scale. Recipe: Swin's stands in.
_base_ = './cascade_mask_rcnn_atmnet_t_3x_coco.py'
model = dict(backbone=dict(arch='xt', drop_path_rate=0.1, init_cfg=dict(checkpoint='checkpoints/atmnet_xt_in1k.pth')))
