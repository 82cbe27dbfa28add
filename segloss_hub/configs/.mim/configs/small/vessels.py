# The demo's U-Net on the vessels of CHASE_DB1.
_base_ = [
    "../_base_/datasets/vessels.py",
    "../_base_/models/small_unet.py",
    "../_base_/runtimes/iterations.py",
    "../_base_/schedules/iterations_160.py",
]

model = dict(
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(in_channels=1),
    decode_head=dict(num_classes=2),
)
