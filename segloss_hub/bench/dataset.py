"""A data set that losses are compared on: its config, read, and its files, looked through once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mmengine.config import Config
from mmengine.fileio import get as read_bytes
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

import segloss_hub.mmseg  # noqa: F401  lets configs find what ships with the hub
from segloss_hub.configs import SCOPE, config_path
from segloss_hub.discovery import default_hub
from segloss_hub.errors import HubError, did_you_mean
from segloss_hub.mmseg.train import check_images

with redirect_stdout(None):  # where it tells of optional packages that are missing
    from mmseg.datasets.transforms import LoadAnnotations

LOADERS = ("train_dataloader", "val_dataloader")
IGNORED = 255
# Where the files lie tells nothing of what is in them.
PLACES = ("data_root", "data_prefix", "ann_file", "work_dir")


class DatasetError(HubError, ValueError):
    """A data set cannot be trained on."""


@dataclass(frozen=True)
class OpenDataset:
    """A data set whose files have been read: `shares` are those of the classes among the labels of
    the training images, `digest` changes with any file and with the config."""

    name: str
    config: Config
    classes: tuple[str, ...]
    ignore_index: int
    shares: tuple[float, ...]
    digest: str


@cache
def open_dataset(name: str) -> OpenDataset:
    """Read a data set by its name or the path of a config; once per process.

    Raises `DatasetError` if there is none, if it has no images, or if a label map holds a label
    that is no class.
    """
    path = _config_of(name)
    # Formatting its text, which nobody reads, would take a second of every training.
    config = Config(Config.fromfile(path).to_dict(), filename=path, format_python_code=False)
    init_default_scope(config.get("default_scope", "mmseg"))
    ignored = heads(config.model)[-1].get("ignore_index", IGNORED)
    digest = hashlib.sha256(json.dumps(_settings(config.to_dict()), default=str).encode())
    counts = {loader: np.zeros(IGNORED + 1, np.int64) for loader in LOADERS}
    for loader in LOADERS:
        try:
            check_images(loader, config[loader].dataset)
        except HubError as error:
            raise DatasetError(f"data set {name!r}: {error}. Its config is {path}") from error
        dataset = DATASETS.build(config[loader].dataset)
        classes = tuple(dataset.metainfo["classes"])
        for image, file, labels in _files(dataset, digest):
            digest.update(image.encode())
            found = np.bincount(labels.ravel(), minlength=IGNORED + 1)
            _check_labels(found, classes, ignored, f"data set {name!r}: the label map {file}")
            counts[loader] += found
    labelled = counts[LOADERS[0]][: len(classes)]
    shares = tuple((labelled / max(1, labelled.sum())).tolist())
    return OpenDataset(name, config, classes, ignored, shares, digest.hexdigest())


def heads(model: Any) -> list[Any]:
    """The decode heads in the config of a network: what has the loss."""
    head = model.decode_head
    return list(head) if isinstance(head, (list, tuple)) else [head]


def _config_of(name: str) -> Path:
    if name.endswith(".py") or name.startswith(SCOPE):
        return config_path(name)
    datasets = default_hub().datasets()
    if name not in datasets:
        raise DatasetError(
            f"there is no data set {name!r}. {did_you_mean(name, datasets)} One of your own is "
            "named by the path of an MMSegmentation config that loads it"
        )
    return config_path(datasets[name].config)


def _settings(value: Any) -> Any:
    """A config without the places of its files."""
    if isinstance(value, dict):
        return {key: _settings(part) for key, part in value.items() if key not in PLACES}
    return [_settings(part) for part in value] if isinstance(value, (list, tuple)) else value


def _files(dataset: Any, digest: hashlib._Hash) -> Iterator[tuple[str, str, npt.NDArray[np.uint8]]]:
    """The name of each image, the path of its label map, and that map; bytes go into the digest."""
    annotations = LoadAnnotations()
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        for path in (info["img_path"], info["seg_map_path"]):
            digest.update(read_bytes(path))
        yield Path(info["img_path"]).name, info["seg_map_path"], annotations(info)["gt_seg_map"]


def _check_labels(
    counts: npt.NDArray[np.int64], classes: tuple[str, ...], ignored: int, what: str
) -> None:
    known = {*range(len(classes)), ignored}
    wrong = [label for label in np.flatnonzero(counts).tolist() if label not in known]
    if wrong:
        raise DatasetError(
            f"{what} has the label {wrong[0]}, expected 0 to {len(classes) - 1} for the classes "
            f"{', '.join(classes)}, or {ignored} for pixels to ignore: correct the label map, or "
            "the classes in metainfo of the config"
        )
