# The demo's U-Net on the vessels of CHASE_DB1.
# ruff: noqa: F403, F405
from mmengine.config import read_base

with read_base():
    from .._base_.datasets.vessels import *
    from .._base_.models.small_unet import *
    from .._base_.runtimes.iterations import *
    from .._base_.schedules.iterations_160 import *

model.update(
    dict(
        data_preprocessor=data_preprocessor,
        backbone=dict(in_channels=1),
        decode_head=dict(num_classes=2),
    )
)
