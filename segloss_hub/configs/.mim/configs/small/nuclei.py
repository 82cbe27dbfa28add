# The demo's U-Net on the nuclei that ship with the hub: runs anywhere within minutes.
_base_ = [
    "../_base_/datasets/nuclei.py",
    "../_base_/models/small_unet.py",
    "../_base_/runtimes/iterations.py",
    "../_base_/schedules/iterations_160.py",
]

model = dict(
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(in_channels=1),
    decode_head=dict(num_classes=3),
)
