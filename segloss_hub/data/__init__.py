"""The small real data set that ships with the hub: nuclei under the microscope, 64 crops.

Importing this module imports neither torch nor MMSegmentation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "val"]

CLASSES = ("background", "nucleus", "border")
PALETTE = ((0, 0, 0), (86, 180, 233), (230, 159, 0))  # Okabe and Ito: safe for colour-blind eyes
SPLITS: tuple[Split, ...] = ("train", "val")

_REINSTALL = "If nothing was moved by hand, run: pip install --force-reinstall segloss-hub"


def nuclei_path() -> Path:
    """The folder with `images/`, `masks3/` (three classes) and `masks/` (two classes)."""
    return Path(__file__).parent / "nuclei"


def nuclei_dataset(
    split: Split, *, three_classes: bool = True, pipeline: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """An MMSegmentation dataset config: 48 grey images to train on, 16 to validate on, 128 x 128.

    With `three_classes` the outermost pixel of every nucleus is a class of its own, "border";
    without, it is "nucleus" too. `pipeline` replaces `nuclei_pipeline(split)`.
    """
    if split not in SPLITS:
        raise ValueError(f"Expected split to be 'train' or 'val', but got {split!r}.")
    masks = "masks3" if three_classes else "masks"
    count = 3 if three_classes else 2
    return {
        "type": "mmseg.BaseSegDataset",
        "metainfo": {"classes": CLASSES[:count], "palette": [list(rgb) for rgb in PALETTE[:count]]},
        "data_root": str(nuclei_path()),
        "data_prefix": {"img_path": f"images/{split}", "seg_map_path": f"{masks}/{split}"},
        "img_suffix": ".png",
        "seg_map_suffix": ".png",
        "reduce_zero_label": False,
        "pipeline": nuclei_pipeline(split) if pipeline is None else pipeline,
    }


def nuclei_pipeline(split: Split) -> list[dict[str, Any]]:
    """Load the image and its labels; in training, mirror every second pair at random."""
    flip = [{"type": "RandomFlip", "prob": 0.5}] if split == "train" else []
    return [
        {"type": "LoadImageFromFile", "color_type": "grayscale"},
        {"type": "mmseg.LoadAnnotations"},
        *flip,
        {"type": "mmseg.PackSegInputs"},
    ]


def check_folder(root: Path, *, masks: str = "masks3") -> None:
    """Raise `FileNotFoundError` unless every image below `root` is there and has its mask."""
    for split in SPLITS:
        images = _pngs(root / "images" / split, "grey images such as 000.png")
        labels = _pngs(root / masks / split, "one label map per image, of the same name")
        if missing := sorted(images - labels):
            raise FileNotFoundError(
                f"Expected a label map for every image of {root / 'images' / split} in "
                f"{root / masks / split}, but found none for {', '.join(missing)}. {_REINSTALL}"
            )


def _pngs(folder: Path, expected: str) -> set[str]:
    found = {path.name for path in folder.glob("*.png")}
    if not found:
        state = "it is empty of PNG files" if folder.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"Expected {expected} in {folder}, but {state}. {_REINSTALL}")
    return found
