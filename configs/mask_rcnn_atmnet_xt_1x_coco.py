# Mask R-CNN + ATMNet-xT on COCO, 12 epochs at 800x1333. Recipe: Swin's stands in; epochs and scale are published.
_base_ = './mask_rcnn_atmnet_t_1x_coco.py'
model = dict(backbone=dict(arch='xt', drop_path_rate=0.1, init_cfg=dict(checkpoint='checkpoints/atmnet_xt_in1k.pth')))
