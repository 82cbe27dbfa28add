"""The hub inside MMSegmentation.

`loss_decode=dict(type='segloss_hub.HubLoss', name='dice')` needs no import line. After
`custom_imports = dict(imports=['segloss_hub.mmseg'])` the bare `type='HubLoss'` works too, and
every discovered loss is there as `type='hub/<name>'`.
"""

from segloss_hub.mmseg.hooks import HubHook, TermWeightRamp
from segloss_hub.mmseg.loss import HubLoss
from segloss_hub.mmseg.optim import HubAmpOptimWrapper
from segloss_hub.mmseg.register import register_all
from segloss_hub.mmseg.transforms import HubDistanceMaps, HubEdges

register_all()

__all__ = [
    "HubAmpOptimWrapper",
    "HubDistanceMaps",
    "HubEdges",
    "HubHook",
    "HubLoss",
    "TermWeightRamp",
]
