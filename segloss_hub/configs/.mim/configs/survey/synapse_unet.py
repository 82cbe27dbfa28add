# The survey's U-Net on Synapse multi-organ.
_base_ = [
    "../_base_/datasets/synapse.py",
    "../_base_/models/unet.py",
    "../_base_/runtimes/epochs.py",
    "../_base_/schedules/survey.py",
]

model = dict(
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(in_channels=1),
    decode_head=dict(num_classes=8),
)
