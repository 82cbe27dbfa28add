"""The toolkit that losses are written with: torch only, no card, no plugin, no MMSegmentation."""

from segloss_hub.nn.absolute import absolute_errors
from segloss_hub.nn.base import Common, Elements, Reduction, SegLoss
from segloss_hub.nn.batch import Batch
from segloss_hub.nn.boundaries import boundary_band, boundary_counts, class_bands, dilated
from segloss_hub.nn.compose import WeightedSum
from segloss_hub.nn.distance import (
    DistanceTransform,
    distance_maps,
    forget_maps,
    mask_distance,
    nearest_distance,
    once_per_batch,
    other_class_distance,
)
from segloss_hub.nn.ingredients import Ingredient, RegionSums
from segloss_hub.nn.label_cost import label_cost, label_cost_sums
from segloss_hub.nn.links import focal_link, power_link
from segloss_hub.nn.maps import (
    DistanceLoss,
    LabelMaps,
    MapLoss,
    MapOptions,
    label_maps,
    pixel_sizes,
)
from segloss_hub.nn.negatives import negatives
from segloss_hub.nn.parameters import Parameter, parameters_of
from segloss_hub.nn.pixels import (
    TrueClass,
    expected_cost,
    spread_nll,
    true_class,
    weighted_nll,
)
from segloss_hub.nn.ranking import kth_largest, largest_share
from segloss_hub.nn.regions import (
    CurvedRegionLoss,
    RegionLoss,
    RegionOptions,
    region_sums,
    tversky_ratio,
)
from segloss_hub.nn.two_channels import two_channels

__all__ = [
    "Batch",
    "Common",
    "CurvedRegionLoss",
    "DistanceLoss",
    "DistanceTransform",
    "Elements",
    "Ingredient",
    "LabelMaps",
    "MapLoss",
    "MapOptions",
    "Parameter",
    "Reduction",
    "RegionLoss",
    "RegionOptions",
    "RegionSums",
    "SegLoss",
    "TrueClass",
    "WeightedSum",
    "absolute_errors",
    "boundary_band",
    "boundary_counts",
    "class_bands",
    "dilated",
    "distance_maps",
    "expected_cost",
    "focal_link",
    "forget_maps",
    "kth_largest",
    "label_cost",
    "label_cost_sums",
    "label_maps",
    "largest_share",
    "mask_distance",
    "nearest_distance",
    "negatives",
    "once_per_batch",
    "other_class_distance",
    "parameters_of",
    "pixel_sizes",
    "power_link",
    "region_sums",
    "spread_nll",
    "true_class",
    "tversky_ratio",
    "two_channels",
    "weighted_nll",
]
