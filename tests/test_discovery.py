from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from segloss_hub import (
    Hub,
    LossCard,
    PluginError,
    UnknownLossError,
    create_loss,
    get_card,
    hookimpl,
    list_losses,
)
from segloss_hub.discovery import default_hub


def make_card(name: str, **fields: Any) -> LossCard:
    return get_card("dice").model_copy(update={"name": name, "aliases": (), **fields})


def plugin_with(card: LossCard) -> object:
    @hookimpl
    def segloss_losses() -> list[LossCard]:
        return [card]

    return SimpleNamespace(segloss_losses=segloss_losses)


def hub_of(*cards: LossCard) -> Hub:
    hub = Hub()
    for card in cards:
        hub.register(plugin_with(card), card.name)
    return hub


def test_the_three_plugins_are_discovered_without_a_problem() -> None:
    assert {"boundary", "cross-entropy", "dice"} <= set(list_losses())
    assert default_hub().problems == []


def test_an_empty_hub_is_empty_and_a_registered_plugin_is_found() -> None:
    assert Hub().list_losses() == []
    assert hub_of(make_card("my-dice")).list_losses() == ["my-dice"]


def test_list_filters_by_pattern_level_tag_and_capability() -> None:
    assert list_losses("cross*") == ["cross-entropy"]
    assert "dice" in list_losses(level="region") and "dice" not in list_losses(level="pixel")
    assert "cross-entropy" in list_losses(good_for="baseline")
    assert "dice" not in list_losses(good_for=["medical", "baseline"])
    assert "boundary" not in list_losses(supports="soft_labels")
    assert "boundary" in list_losses(supports=["3d", "may_be_negative"])


@pytest.mark.parametrize(
    ("condition", "hint"),
    [
        ({"level": "regio"}, "Did you mean 'region'"),
        ({"good_for": "medicle"}, "Did you mean 'medical'"),
        ({"supports": "softlabels"}, "Did you mean 'soft_labels'"),
    ],
)
def test_list_refuses_what_does_not_exist(condition: dict[str, str], hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        list_losses(**condition)


def test_aliases_are_found() -> None:
    assert get_card("gdl").name == "dice"
    assert type(create_loss("ce")).__name__ == "CrossEntropyLoss"


def test_an_unknown_name_gets_the_nearest_ones() -> None:
    with pytest.raises(UnknownLossError, match="'dcie'.*Did you mean 'dice'"):
        create_loss("dcie")


def test_a_known_loss_that_is_not_installed_gets_the_install_line() -> None:
    with pytest.raises(UnknownLossError, match="pip install segloss-plugin-dice"):
        Hub().get_card("gdl")


def test_an_alias_of_two_losses_is_refused_and_reported() -> None:
    hub = hub_of(make_card("aa", aliases=("both",)), make_card("bb", aliases=("both",)))
    with pytest.raises(UnknownLossError, match="alias of aa and of bb"):
        hub.get_card("both")
    assert [p.name for p in hub.problems] == []
    hub._report_alias_clashes()
    assert {p.name for p in hub.problems} == {"aa", "bb"}


@pytest.mark.parametrize(
    ("implementation", "message"),
    [
        ("nowhere.loss:Loss", "cannot be imported.*reinstall or upgrade"),
        ("segloss_plugin_dice.loss:Nope", "cannot be imported"),
        ("pathlib:Path", "no subclass of segloss_hub.nn.SegLoss"),
    ],
)
def test_an_implementation_that_is_not_there_is_said_so(implementation: str, message: str) -> None:
    hub = hub_of(make_card("broken", implementation=implementation))
    with pytest.raises(PluginError, match=message):
        hub.create_loss("broken")


def test_a_plugin_registered_twice_is_a_problem_not_an_exception() -> None:
    hub, plugin = Hub(), plugin_with(make_card("once"))
    hub.register(plugin, "once")
    hub.register(plugin, "once")
    assert hub.list_losses() == ["once"]
    assert [problem.step for problem in hub.problems] == ["register"]
