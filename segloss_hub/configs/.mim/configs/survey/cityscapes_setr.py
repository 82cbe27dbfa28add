# A transformer near the survey's TransUNet on Cityscapes.
_base_ = [
    "../_base_/datasets/cityscapes.py",
    "../_base_/models/setr.py",
    "../_base_/runtimes/epochs.py",
    "../_base_/schedules/survey.py",
]

model = dict(
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(in_channels=3),
    decode_head=dict(num_classes=19),
)
