"""Hooks beyond losses: data sets, checks and sections of plugins that pip installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import Run, card_source, pip_install, write_plugin
from pydantic import ValidationError

from segloss_hub import Dataset, Hub, Section, hookimpl
from segloss_hub.discovery import OWN, default_hub
from segloss_hub.testing.check import Check
from segloss_hub.testing.checks import all_checks

LOSS = """
from segloss_hub.nn import Elements, SegLoss

class ALoss(SegLoss):
    def elements(self, batch):
        return Elements(batch.nll, batch.pixel_weight, per_pixel=True)
"""
DATASET = """
from segloss_hub import Dataset, hookimpl

@hookimpl
def segloss_datasets():
    return [
        Dataset(name=name, title="Roads", summary="Seen from above.", config="roads.py",
                classes=("ground", "road"), licence="CC0-1.0", url="https://example.org/roads")
        for name in NAMES
    ]
"""
CHECKS = """
from segloss_hub import hookimpl

@hookimpl
def segloss_checks():
    from segloss_hub.testing.check import check

    @check()
    def CHECK(subject):
        assert subject.card.name != "checked", "MESSAGE"

    return [CHECK]
"""


def checks(name: str, message: str) -> str:
    return CHECKS.replace("CHECK", name).replace("MESSAGE", message)


PLUGINS = {
    "roads": 'NAMES = ["roads", "nuclei"]' + DATASET,
    "checked": card_source("checked") + checks("check_own", "own check ran"),
    "house": checks("check_house", "house check ran"),
    "late": "from segloss_hub import hookimpl\n@hookimpl\ndef segloss_datasets(): return 1 / 0",
    "sectional": (
        "from segloss_hub import Section, hookimpl\n@hookimpl\n"
        "def segloss_sections(cards): return [Section(title='Mine'), 'text']"
    ),
    "greedy": "from segloss_hub import hookimpl\n@hookimpl\ndef segloss_datasets(hub): return []",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("plugins")
    site = tmp_path_factory.mktemp("site")
    pip_install([write_plugin(folder, n, source, loss=LOSS) for n, source in PLUGINS.items()], site)
    return {"PYTHONPATH": str(site)}


def test_the_hub_brings_its_own_through_the_same_hooks() -> None:
    hub = default_hub()
    assert {"nuclei", "vessels", "camvid"} <= set(hub.datasets())
    assert [
        check for source, check in hub.contributions("segloss_checks", Check) if source is OWN
    ] == all_checks()
    cards = tuple(hub.cards.values())
    titles = [s.title for _, s in hub.contributions("segloss_sections", Section, cards=cards)]
    assert len(titles) >= 2


def test_the_data_sets_name_configs_that_are_there_with_their_classes() -> None:
    from mmengine.config import Config

    from segloss_hub.configs import config_path

    for dataset in default_hub().datasets().values():
        evaluated = Config.fromfile(config_path(dataset.config)).val_dataloader.dataset
        if "metainfo" in evaluated:
            assert tuple(evaluated.metainfo.classes) == dataset.classes


def test_datasets_of_a_plugin_are_listed_and_none_is_shadowed(
    segloss: Run, site: dict[str, str]
) -> None:
    found = json.loads(segloss("datasets", "--json", env=site).stdout)
    by_name = {dataset["name"]: dataset for dataset in found}
    assert by_name["roads"]["classes"] == ["ground", "road"]
    assert by_name["nuclei"]["ships"]  # the hub's own
    assert "segloss train roads.py" in segloss("datasets", env=site).stdout


def test_doctor_names_what_hooks_bring_wrongly(segloss: Run, site: dict[str, str]) -> None:
    done = segloss("doctor", "--json", env=site)
    problems = {p["name"]: p for p in json.loads(done.stdout)["problems"]}
    assert set(problems) == {"roads", "late", "sectional", "greedy"}
    assert "a data set 'nuclei' already" in problems["roads"]["reason"]
    assert (
        problems["late"]["step"] == "collect" and "ZeroDivisionError" in problems["late"]["reason"]
    )
    assert "returned a list with str in it" in problems["sectional"]["reason"]
    greedy = problems["greedy"]
    assert greedy["step"] == "register" and "hub" in greedy["reason"]


def test_checks_of_a_plugin_are_asked_of_its_own_loss_and_house_checks_of_all(
    segloss: Run, site: dict[str, str]
) -> None:
    done = segloss("check", "checked", "cross-entropy", "--json", env=site)
    assert done.returncode == 1
    mine, other = json.loads(done.stdout)
    failed = {c["check"]: c for c in mine["checks"] if c["status"] == "failed"}
    assert "own check ran" in failed["check_own"]["message"]
    assert "house check ran" in failed["check_house"]["message"]
    assert failed["check_own"]["theme"] == "segloss_plugin_checked"
    names = {check["check"]: check["status"] for check in other["checks"]}
    assert names["check_house"] == "passed" and "check_own" not in names


def test_an_implementation_may_leave_arguments_out() -> None:
    class Plugin:
        @hookimpl
        def segloss_sections(self) -> list[Section]:
            return [Section(title="Without cards")]

    hub = Hub()
    hub.register(Plugin(), "short")
    found = hub.contributions("segloss_sections", Section, cards=())
    assert [section.title for source, section in found if source is not OWN] == ["Without cards"]
    assert hub.problems == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": [("a", "b")]}, "row 1 has 2 cells, there are 0 columns"),
        ({"title": "two\nlines"}, "one line"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_section_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Section.model_validate({"title": "A title", **fields})


def test_a_wrong_dataset_is_refused(tmp_path: Path) -> None:
    good = default_hub().datasets()["nuclei"].model_dump()
    for fields in ({"url": "javascript:x"}, {"classes": ()}, {"name": "Not A Slug"}):
        with pytest.raises(ValidationError):
            Dataset.model_validate({**good, **fields})
