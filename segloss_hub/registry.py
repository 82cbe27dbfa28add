"""The hub's registries in MMEngine.

MMEngine imports the module `<scope>.registry` of every scope it meets, so this file's name is what
makes `type='segloss_hub.HubLoss'` work in a config without any import line.
"""

from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import METRICS as ROOT_METRICS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPERS as ROOT_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.registry import Registry

SCOPE = "segloss_hub"
_LOCATIONS = ["segloss_hub.mmseg"]

MODELS = Registry("model", parent=ROOT_MODELS, scope=SCOPE, locations=_LOCATIONS)
HOOKS = Registry("hook", parent=ROOT_HOOKS, scope=SCOPE, locations=_LOCATIONS)
TRANSFORMS = Registry("transform", parent=ROOT_TRANSFORMS, scope=SCOPE, locations=_LOCATIONS)
METRICS = Registry("metric", parent=ROOT_METRICS, scope=SCOPE, locations=_LOCATIONS)
OPTIM_WRAPPERS = Registry(
    "optim_wrapper", parent=ROOT_OPTIM_WRAPPERS, scope=SCOPE, locations=_LOCATIONS
)
