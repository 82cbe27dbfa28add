# The survey's U-Net on Synapse multi-organ.
# ruff: noqa: F403, F405
from mmengine.config import read_base

with read_base():
    from .._base_.datasets.synapse import *
    from .._base_.models.unet import *
    from .._base_.runtimes.epochs import *
    from .._base_.schedules.survey import *

model.update(
    dict(
        data_preprocessor=data_preprocessor,
        backbone=dict(in_channels=1),
        decode_head=dict(num_classes=8),
    )
)
