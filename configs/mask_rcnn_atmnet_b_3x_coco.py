# Mask R-CNN + ATMNet-B on COCO, 36 epochs, multi-scale. Recipe: Swin's stands in; epochs and multi-scale are published.
_base_ = './mask_rcnn_atmnet_t_3x_coco.py'
model = dict(backbone=dict(arch='b', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/atmnet_b_in1k.pth')))
