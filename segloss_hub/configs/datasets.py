"""The data sets of the configs that ship with the hub."""

from __future__ import annotations

from segloss_hub.contributions import Dataset

DATASETS = (
    Dataset(
        name="nuclei",
        title="Nuclei under the microscope (Data Science Bowl 2018)",
        summary="64 grey crops of 128 x 128 pixels: nuclei, and the thin borders between them.",
        config="segloss_hub::small/nuclei.py",
        classes=("background", "nucleus", "border"),
        licence="CC0-1.0",
        url="https://bbbc.broadinstitute.org/BBBC038",
        ships=True,
    ),
    Dataset(
        name="vessels",
        title="CHASE_DB1: vessels of the eye ground",
        summary="Thin structures, 6 % of the pixels, in grey images of 999 x 960 pixels.",
        config="segloss_hub::small/vessels.py",
        classes=("background", "vessel"),
        licence="CC-BY-4.0",
        url="https://doi.org/10.1109/TBME.2012.2205687",
    ),
    Dataset(
        name="camvid",
        title="CamVid: road scenes",
        summary="Eleven classes, five of them under 1.5 % of the pixels, some pixels void.",
        config="segloss_hub::small/camvid.py",
        classes=(
            *("sky", "building", "pole", "road", "pavement", "tree"),
            *("sign", "fence", "car", "pedestrian", "cyclist"),
        ),
        licence="research only (the usual copy: CC-BY-NC-4.0)",
        url="https://doi.org/10.1016/j.patrec.2008.04.005",
    ),
)
