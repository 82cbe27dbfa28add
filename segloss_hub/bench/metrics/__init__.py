"""Scores of segmentations, one module each.

`collection` gathers those of `segloss bench`, and alone needs torchmetrics.
"""

from segloss_hub.bench.metrics.boundary_f1 import BoundaryF1, boundary_f1
from segloss_hub.bench.metrics.by_class import class_scores
from segloss_hub.bench.metrics.hausdorff import hausdorff95
from segloss_hub.bench.metrics.masks import boundary

__all__ = ["BoundaryF1", "boundary", "boundary_f1", "class_scores", "hausdorff95"]
