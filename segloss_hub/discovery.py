"""Find the installed loss plugins: cards by name, and what went wrong with which plugin.

Every entry point of the group `segloss_hub` goes through the same steps (find, import, register,
collect, validate), each on its own: what fails becomes a `Problem`, never an exception, so that one
broken plugin costs exactly one plugin.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pluggy

from segloss_hub.card import CAPABILITIES, LEVELS, TAGS, LossCard
from segloss_hub.errors import HubError, PluginError, UnknownLossError, did_you_mean, nearest
from segloss_hub.hookspecs import PROJECT, LossHooks

if TYPE_CHECKING:
    from segloss_hub.nn import SegLoss, WeightedSum
    from segloss_hub.nn.weighting import WeightingName

GROUP = "segloss_hub"
Step = Literal["find", "import", "register", "collect", "validate", "implementation"]
T = TypeVar("T")


@dataclass(frozen=True)
class Problem:
    """What went wrong with one plugin, at which step, and what mends it."""

    name: str
    distribution: str
    version: str
    step: Step
    exception: BaseException
    hint: str

    @property
    def reason(self) -> str:
        """The exception in one string, whatever a hostile one holds or does."""
        try:
            text = f"{type(self.exception).__name__}: {self.exception}"
        except Exception:
            text = f"{type(self.exception).__name__}: (its message cannot be printed)"
        return "".join(
            c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text
        )

    def __str__(self) -> str:
        return (
            f"{self.distribution} {self.version} ({self.name}), step {self.step}: {self.reason}\n"
            f"    -> {self.hint}"
        )


@dataclass(frozen=True)
class Source:
    """Where a plugin comes from."""

    name: str
    distribution: str
    version: str

    @property
    def owns_name(self) -> bool:
        """Whether the distribution's name is the one that the plugin's name asks for."""
        return _normal(self.distribution) == f"segloss-plugin-{self.name}"


class _StepError(Exception):
    """One step failed; carries what a `Problem` needs."""

    def __init__(self, step: Step, exception: BaseException, hint: str) -> None:
        super().__init__(step)
        self.step, self.exception, self.hint = step, exception, hint


class Hub:
    """A set of plugins. `Hub.discover()` reads the installed ones; `Hub()` starts empty."""

    def __init__(self) -> None:
        self.cards: dict[str, LossCard] = {}
        self.problems: list[Problem] = []
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(LossHooks)

    @classmethod
    def discover(cls, found: Iterable[EntryPoint] | None = None) -> Hub:
        """Load the given entry points, by default the installed ones of group `segloss_hub`.

        `SEGLOSS_LOAD_PLUGINS` names the only ones to load, `SEGLOSS_DISABLE_PLUGINS` those to
        leave out (comma separated; plugin or distribution names). `SEGLOSS_STRICT=1` raises
        `PluginError` at the end if there was any problem.
        """
        hub = cls()
        points = sorted(entry_points(group=GROUP) if found is None else found, key=lambda e: e.name)
        pairs = hub._claims(hub._selected([(point, hub._source(point)) for point in points]))
        for point, source in pairs:
            hub._add(source, partial(_import, point))
        hub.cards = dict(sorted(hub.cards.items()))
        hub._report_alias_clashes()
        if os.environ.get("SEGLOSS_STRICT", "") not in ("", "0") and hub.problems:
            raise PluginError("\n".join(str(problem) for problem in hub.problems))
        return hub

    def register(self, plugin: object, name: str) -> None:
        """Add a plugin object or module as if `segloss-plugin-<name>` had been installed."""
        self._add(Source(name, f"segloss-plugin-{name}", "0"), lambda: plugin)
        self.cards = dict(sorted(self.cards.items()))

    def list_losses(
        self,
        pattern: str = "*",
        *,
        level: str | None = None,
        good_for: str | Iterable[str] = (),
        supports: str | Iterable[str] = (),
    ) -> list[str]:
        """Names of the installed losses that match all conditions, sorted.

        `pattern` is a shell pattern such as `"focal*"`; `level` one of pixel, region, boundary,
        combined; `good_for` tags, `supports` capabilities (`"soft_labels"`, `"3d"`), all of which a
        loss must have. Raises `ValueError` for a level, tag or capability that does not exist.
        """
        levels = {_choice("level", level, LEVELS)} if level is not None else set(LEVELS)
        tags = {_choice("tag", tag, TAGS) for tag in _words(good_for)}
        able = {_choice("capability", word, CAPABILITIES) for word in _words(supports)}
        return [
            name
            for name, card in self.cards.items()
            if fnmatchcase(name, pattern)
            and card.level in levels
            and tags <= set(card.good_for)
            and able <= card.supports
        ]

    def get_card(self, name: str) -> LossCard:
        """The card of the loss called `name`, or that has this alias.

        Raises `PluginError` with the reason if the loss is installed but broken, and
        `UnknownLossError` with the install line or the nearest names if it is not there.
        """
        if name in self.cards:
            return self.cards[name]
        owners = self._aliases().get(name, [])
        if len(owners) == 1:
            return self.cards[owners[0]]
        if owners:
            raise UnknownLossError(f"{name!r} is an alias of {' and of '.join(owners)}: name one")
        raise self._missing(name)

    def create_loss(
        self,
        expression: str,
        *,
        params: Mapping[str, Mapping[str, Any]] | None = None,
        weights: Mapping[str, float] | None = None,
        weighting: WeightingName = "fixed",
        **common: Any,
    ) -> SegLoss | WeightedSum:
        """Build a loss, or a weighted sum of losses, from names.

        >>> create_loss("dice", squared=True)
        >>> create_loss("cross-entropy + 0.5 * dice", ignore_index=0,
        ...             params={"dice": {"squared": True}})

        `common` goes to every term, `params[name]` to one of them; `weights[name]` replaces its
        factor. `weighting` is "fixed", or adapts the weights of a sum in training: "uncertainty"
        learns them beside the network, "gradient-norm" balances the gradients into the logits; see
        `segloss_hub.nn.weighting`. Raises `ExpressionError`, `UnknownLossError`, `PluginError`,
        `UnknownParameterError` or `ParameterError`.
        """
        from segloss_hub.build import build_loss  # the first import of torch

        return build_loss(self, expression, params or {}, common, weights or {}, weighting)

    def _missing(self, name: str) -> HubError:
        for problem in self.problems:
            if problem.name == name:
                return PluginError(f"the loss {name!r} is installed but does not work: {problem}")
        from segloss_hub.catalog import known_losses  # only a failure pays for reading the catalog

        known = known_losses()
        if name in known and known[name] not in self.cards:
            return UnknownLossError(
                f"the loss {name!r} is known but not installed: "
                f"pip install segloss-plugin-{known[name]}"
            )
        names = {*self.cards, *known.values()}  # an alias is proposed only where no name is near
        choices = names if nearest(name, names) else {*names, *self._aliases(), *known}
        return UnknownLossError(f"there is no loss {name!r}. {did_you_mean(name, choices)}")

    def _aliases(self) -> dict[str, list[str]]:
        owners: dict[str, list[str]] = defaultdict(list)
        for name, card in self.cards.items():
            for alias in card.aliases:
                owners[alias].append(name)
        return owners

    def _problem(self, source: Source, step: Step, error: BaseException, hint: str) -> None:
        self.problems.append(
            Problem(source.name, source.distribution, source.version, step, error, hint)
        )

    def _source(self, point: EntryPoint) -> Source:
        try:
            if point.dist is not None:
                return Source(point.name, str(point.dist.name), str(point.dist.version))
        except Exception as error:
            source = Source(point.name, "(unreadable)", "?")
            self._problem(source, "find", error, "its metadata is damaged: reinstall it")
        return Source(point.name, "(unknown)", "?")

    def _selected(self, pairs: list[tuple[EntryPoint, Source]]) -> list[tuple[EntryPoint, Source]]:
        load, disable = _variable("SEGLOSS_LOAD_PLUGINS"), _variable("SEGLOSS_DISABLE_PLUGINS")
        names = {word for _, source in pairs for word in (source.name, source.distribution)}
        for word in sorted(((load or set()) | (disable or set())) - names):
            self._problem(
                Source(word, word, "?"),
                "find",
                LookupError("named in SEGLOSS_LOAD_PLUGINS or SEGLOSS_DISABLE_PLUGINS only"),
                f"no such plugin is installed. {did_you_mean(word, names)}",
            )

        def wanted(source: Source) -> bool:
            words = {source.name, source.distribution}
            return (load is None or bool(words & load)) and not words & (disable or set())

        return [(point, source) for point, source in pairs if wanted(source)]

    def _claims(self, pairs: list[tuple[EntryPoint, Source]]) -> list[tuple[EntryPoint, Source]]:
        """Drop and report whatever claims a name that is not its own; nothing is shadowed."""
        claims = Counter(source.name for _, source in pairs)
        kept = []
        for point, source in pairs:
            others = [
                f"{other.distribution} {other.version}"
                for _, other in pairs
                if claims[source.name] > 1 and other.name == source.name and other is not source
            ]
            if source.owns_name:
                kept.append((point, source))
            if others:
                verdict = "keeps it" if source.owns_name else "is left out"
                self._problem(
                    source,
                    "find",
                    ValueError(f"{source.name!r} is claimed by {', '.join(others)} too"),
                    f"{source.distribution} {verdict}; the name belongs to "
                    f"segloss-plugin-{source.name}: uninstall or rename the other",
                )
            elif not source.owns_name:
                self._problem(
                    source,
                    "validate",
                    ValueError(f"distribution {source.distribution!r} brings {source.name!r}"),
                    f"rename the distribution to segloss-plugin-{source.name}, or the entry point",
                )
        return kept

    def _add(self, source: Source, load: Callable[[], object]) -> None:
        try:
            plugin = load()
            self._register(source, plugin)
            card = _checked(source, self._collect(plugin))
        except _StepError as failed:
            self._problem(source, failed.step, failed.exception, failed.hint)
        else:
            self.cards[card.name] = card

    def _register(self, source: Source, plugin: object) -> None:
        identity = f"{source.distribution}:{source.name}"
        hint = "see segloss_hub/hookspecs.py for what a plugin may implement"
        _attempt("register", hint, lambda: self._manager.register(plugin, identity))
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            self._manager.unregister(plugin)
            raise _StepError(
                "register", error, "a hook is misspelt; the hub calls segloss_losses"
            ) from error

    def _collect(self, plugin: object) -> list[object]:
        hint = "the hook segloss_losses returns a list with one LossCard"
        own = [i for i in self._manager.hook.segloss_losses.get_hookimpls() if i.plugin is plugin]
        if not own or own[0].hookwrapper or own[0].wrapper:
            raise _StepError("collect", TypeError("no plain hook segloss_losses"), hint)
        result = _attempt("collect", hint, own[0].function)
        if isinstance(result, (str, bytes, Mapping, LossCard)) or not isinstance(result, Iterable):
            error = TypeError(f"segloss_losses returned {type(result).__name__}, not a list")
            raise _StepError("collect", error, hint)
        return _attempt("collect", hint, lambda: list(result))

    def _report_alias_clashes(self) -> None:
        for alias, owners in self._aliases().items():
            if len(owners) == 1 and alias not in self.cards:
                continue
            taken = sorted({*owners, *([alias] if alias in self.cards else [])})
            for owner in owners:
                self._problem(
                    Source(owner, self.cards[owner].distribution, "?"),
                    "validate",
                    ValueError(f"alias {alias!r} is claimed by {', '.join(taken)}"),
                    "it works under its name; remove the alias from its card",
                )


@cache
def default_hub() -> Hub:
    """The installed plugins, discovered once per process."""
    return Hub.discover()


def list_losses(
    pattern: str = "*",
    *,
    level: str | None = None,
    good_for: str | Iterable[str] = (),
    supports: str | Iterable[str] = (),
) -> list[str]:
    """Names of the installed losses that match; see `Hub.list_losses`."""
    return default_hub().list_losses(pattern, level=level, good_for=good_for, supports=supports)


def get_card(name: str) -> LossCard:
    """The card of an installed loss; see `Hub.get_card`."""
    return default_hub().get_card(name)


def create_loss(
    expression: str,
    *,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    weights: Mapping[str, float] | None = None,
    weighting: WeightingName = "fixed",
    **common: Any,
) -> SegLoss | WeightedSum:
    """Build a loss or a weighted sum of losses by name; see `Hub.create_loss`."""
    return default_hub().create_loss(
        expression, params=params, weights=weights, weighting=weighting, **common
    )


def _import(point: EntryPoint) -> object:
    def load() -> object:
        with redirect_stdout(sys.stderr):  # a plugin that prints must not spoil `--json`
            return point.load()

    return _attempt("import", f"run `python -c 'import {point.module}'` to see where", load)


def _checked(source: Source, cards: list[object]) -> LossCard:
    hint = f"bring exactly one valid card, named {source.name!r} like the entry point"
    if len(cards) != 1:
        raise _StepError("validate", ValueError(f"{len(cards)} cards instead of one"), hint)
    card = _attempt("validate", hint, lambda: LossCard.model_validate(cards[0]))
    if card.name != source.name:
        error = ValueError(f"the card is named {card.name!r}, the entry point {source.name!r}")
        raise _StepError("validate", error, hint)
    return card


def _attempt(step: Step, hint: str, action: Callable[[], T]) -> T:
    try:
        return action()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a plugin may fail in any way, the hub may not
        raise _StepError(step, error, hint) from error


def _variable(name: str) -> set[str] | None:
    value = os.environ.get(name)
    return None if value is None else {word.strip() for word in value.split(",") if word.strip()}


def _words(value: str | Iterable[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _choice(kind: str, value: str, choices: Iterable[str]) -> str:
    if value not in choices:
        raise ValueError(f"there is no {kind} {value!r}. {did_you_mean(value, choices)}")
    return value


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
