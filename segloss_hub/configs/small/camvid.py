# The demo's U-Net on CamVid.
# ruff: noqa: F403, F405
from mmengine.config import read_base

with read_base():
    from .._base_.datasets.camvid import *
    from .._base_.models.small_unet import *
    from .._base_.runtimes.iterations import *
    from .._base_.schedules.iterations_8k import *

model.update(
    dict(
        data_preprocessor=data_preprocessor,
        backbone=dict(in_channels=3),
        decode_head=dict(num_classes=11),
    )
)
