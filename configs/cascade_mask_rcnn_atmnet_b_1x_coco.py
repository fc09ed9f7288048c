# Cascade Mask R-CNN + ATMNet-B on COCO, 12 epochs at 800x1333. Recipe: Swin's stands in.
_base_ = './cascade_mask_rcnn_atmnet_t_1x_coco.py'
model = dict(backbone=dict(arch='b', drop_path_rate=0.2, init_cfg=dict(checkpoint='checkpoints/atmnet_b_in1k.pth')))
