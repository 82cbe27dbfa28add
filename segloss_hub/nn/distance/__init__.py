"""Exact Euclidean distances of label maps, in floating point from end to end.

Degenerate masks are decided here once: a class that is absent, or that fills every known pixel, has
no boundary and therefore the distance 0 everywhere. Unknown (ignored) pixels are neither object nor
outside, and have the distance 0 themselves.

maps.py      maps of a batch of labels, per class or to the nearest other class
host.py      how they are made on the CPU, exactly, at any distance
boxes.py    how they are made on the CPU for small objects, each class within its own box
device.py    how they are made where the labels lie, exactly, up to a limit
combine.py   inside, signed and other kinds of maps from distances to classes
backends.py  the transform of one mask: OpenCV, SciPy or edt
reuse.py     one computation for the losses and heads of a batch
masks.py     distances to given pixels
transform.py maps as a step of a data loader
"""

from segloss_hub.nn.distance.backends import Backend, nearest_distance
from segloss_hub.nn.distance.combine import Kind
from segloss_hub.nn.distance.maps import distance_maps, other_class_distance
from segloss_hub.nn.distance.masks import mask_distance
from segloss_hub.nn.distance.reuse import forget_maps, once_per_batch
from segloss_hub.nn.distance.transform import DistanceTransform

__all__ = [
    "Backend",
    "DistanceTransform",
    "Kind",
    "distance_maps",
    "forget_maps",
    "mask_distance",
    "nearest_distance",
    "once_per_batch",
    "other_class_distance",
]
