# The demo's U-Net on CamVid.
_base_ = [
    "../_base_/datasets/camvid.py",
    "../_base_/models/small_unet.py",
    "../_base_/runtimes/iterations.py",
    "../_base_/schedules/iterations_8k.py",
]

model = dict(
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(in_channels=3),
    decode_head=dict(num_classes=11),
)
