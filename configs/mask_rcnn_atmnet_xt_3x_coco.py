# Mask R-CNN + ATMNet-xT on COCO, 36 epochs, multi-scale. Recipe: Swin's stands in; epochs, multi-scale are published.
_base_ = './mask_rcnn_atmnet_t_3x_coco.py'
model = dict(backbone=dict(arch='xt', drop_path_rate=0.1, init_cfg=dict(checkpoint='checkpoints/atmnet_xt_in1k.pth')))
