# The demo's U-Net on the nuclei that ship with the hub: runs anywhere within minutes.
# ruff: noqa: F403, F405
from mmengine.config import read_base

with read_base():
    from .._base_.datasets.nuclei import *
    from .._base_.models.small_unet import *
    from .._base_.runtimes.iterations import *
    from .._base_.schedules.iterations_160 import *

model.update(
    dict(
        data_preprocessor=data_preprocessor,
        backbone=dict(in_channels=1),
        decode_head=dict(num_classes=3),
    )
)
