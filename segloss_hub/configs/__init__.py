"""Ready training configs: `_base_/` has one file per data set, model and schedule.

    segloss_hub::small/nuclei.py            trains on the data that ship with the hub
    segloss_hub::small/camvid.py            on road scenes, in the folder that CAMVID names
    segloss_hub::small/vessels.py           on vessels of the eye ground: CHASE_DB1
    segloss_hub::survey/cityscapes_unet.py  the survey's comparison on street scenes: CITYSCAPES
    segloss_hub::survey/cityscapes_setr.py
    segloss_hub::survey/synapse_unet.py     and on organs: SYNAPSE
    segloss_hub::survey/synapse_setr.py

A config of one's own begins with `_base_ = "segloss_hub::small/nuclei.py"` or, in pure Python, with
`from segloss_hub.configs.small.nuclei import *` under `read_base()`. The loss is one line,
`model.decode_head.loss_decode.name`.

MMEngine looks for what follows `::` under `.mim/configs`, for what is imported here. So the configs
in pure Python are here, those with `_base_` are there, and both stand on the files of `_base_/`.
These hold plain dictionaries, which both kinds can read, and name the scope `mmseg` in each, since
MMEngine would otherwise look for their types among those of `segloss_hub` alone. They have no
import statement, by which MMEngine tells a file in pure Python.
"""

from __future__ import annotations

from pathlib import Path

from segloss_hub.errors import HubError, did_you_mean

SCOPE = "segloss_hub::"
_FOLDER = Path(__file__).parent / ".mim" / "configs"


def offer_to_mmengine() -> None:
    """Let MMEngine resolve `segloss_hub::`; it knows a fixed list of packages otherwise."""
    from mmengine.config.utils import MODULE2PACKAGE

    # This package rather than the distribution: a checkout and an editable installation, whose
    # files lie elsewhere, are found as well.
    MODULE2PACKAGE["segloss_hub"] = __name__


def config_path(name: str) -> Path:
    """The file that `segloss_hub::small/nuclei.py` names; any other name is a path already.

    Raises `HubError` if there is no such file.
    """
    path = _FOLDER / name.removeprefix(SCOPE) if name.startswith(SCOPE) else Path(name)
    if not path.is_file():
        near = did_you_mean(name, config_names())
        raise HubError(f"there is no config {name!r}. {near}")
    return path


def config_names() -> list[str]:
    """The ready configs, as `segloss train` takes them."""
    files = (path.relative_to(_FOLDER) for path in _FOLDER.rglob("*.py"))
    return sorted(f"{SCOPE}{file.as_posix()}" for file in files if file.parts[0] != "_base_")
