# UperNet + a small MetaFormer on the images of shapes (tools/make_shapes.py), from scratch. tools/compare_mixers.py
# trains it with every token mixer.
_base_ = '../upernet_atmnet_mini_shapes.py'
model = dict(
    backbone=dict(_delete_=True, type='mmatm.MetaFormer', arch='mini', token_mixer='active', image_size=96),
)
