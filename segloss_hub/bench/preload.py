"""Imported before processes that train are copied from one: whatever each would do at first."""

import atexit
import gc
import os

# Asking CUDA itself whether it is there would keep it from starting in the copies.
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

import torch
import torch._dynamo  # which optimisers import

import segloss_hub.bench.training  # noqa: F401
from segloss_hub.nn.kernels import kernels_for

kernels_for(torch.zeros(1))  # compiles, or loads what is compiled
gc.freeze()  # MMEngine looks for garbage whenever it opens a data set: not among all of this
atexit.register(gc.unfreeze)  # what is never freed, Triton tells of at length
