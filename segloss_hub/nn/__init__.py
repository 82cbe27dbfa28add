"""The toolkit that losses are written with: torch only, no card, no plugin, no MMSegmentation."""

from segloss_hub.nn.base import Common, Elements, Reduction, SegLoss
from segloss_hub.nn.batch import Batch
from segloss_hub.nn.boundaries import boundary_band, boundary_counts, class_bands
from segloss_hub.nn.compose import WeightedSum
from segloss_hub.nn.distance import (
    DistanceTransform,
    distance_maps,
    forget_maps,
    nearest_distance,
    once_per_batch,
    other_class_distance,
)
from segloss_hub.nn.ingredients import Ingredient, RegionSums
from segloss_hub.nn.links import focal_link, power_link
from segloss_hub.nn.parameters import Parameter, parameters_of
from segloss_hub.nn.pixels import TrueClass, expected_cost, spread_nll, true_class
from segloss_hub.nn.regions import RegionLoss, RegionOptions, region_sums

__all__ = [
    "Batch",
    "Common",
    "DistanceTransform",
    "Elements",
    "Ingredient",
    "Parameter",
    "Reduction",
    "RegionLoss",
    "RegionOptions",
    "RegionSums",
    "SegLoss",
    "TrueClass",
    "WeightedSum",
    "boundary_band",
    "boundary_counts",
    "class_bands",
    "distance_maps",
    "expected_cost",
    "focal_link",
    "forget_maps",
    "nearest_distance",
    "once_per_batch",
    "other_class_distance",
    "parameters_of",
    "power_link",
    "region_sums",
    "spread_nll",
    "true_class",
]
