# A transformer near the survey's TransUNet on Cityscapes.
# ruff: noqa: F403, F405
from mmengine.config import read_base

with read_base():
    from .._base_.datasets.cityscapes import *
    from .._base_.models.setr import *
    from .._base_.runtimes.epochs import *
    from .._base_.schedules.survey import *

model.update(
    dict(
        data_preprocessor=data_preprocessor,
        backbone=dict(in_channels=3),
        decode_head=dict(num_classes=19),
    )
)
