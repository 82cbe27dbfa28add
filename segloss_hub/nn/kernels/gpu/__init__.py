"""The kernels for GPUs, written in Triton.

joint.py     the joint pass and its gradient
distance.py  clipped distances, one axis at a time
bins.py      the masses of binned errors, and what each bin gives back
launch.py    how a kernel is started
"""

from segloss_hub.nn.kernels.gpu.bins import bin_masses, from_bins
from segloss_hub.nn.kernels.gpu.distance import clipped_distance
from segloss_hub.nn.kernels.gpu.joint import (
    joint_gradient,
    joint_pass,
    smoothed_gradient,
    smoothed_nll,
)

__all__ = [
    "bin_masses",
    "clipped_distance",
    "from_bins",
    "joint_gradient",
    "joint_pass",
    "smoothed_gradient",
    "smoothed_nll",
]
