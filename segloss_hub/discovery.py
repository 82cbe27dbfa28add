"""Find the installed loss plugins: cards by name, and what went wrong with which plugin.

Every entry point of the group `segloss_hub` goes through the same steps (find, import, register,
collect, validate), each on its own: what fails becomes a `Problem`, never an exception, so that one
broken plugin costs exactly one plugin.
"""

from __future__ import annotations

import gc
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from fnmatch import fnmatchcase
from functools import cache, partial
from importlib.metadata import Distribution, EntryPoint, entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from segloss_hub import __version__, own
from segloss_hub.card import CAPABILITIES, LEVELS, TAGS, LossCard
from segloss_hub.errors import HubError, PluginError, UnknownLossError, did_you_mean, nearest
from segloss_hub.hookspecs import HOOKS, PROJECT, Hooks
from segloss_hub.problem import Problem, Source, Step, StepError, attempt

if TYPE_CHECKING:
    from segloss_hub.contributions import Dataset
    from segloss_hub.nn import SegLoss, WeightedSum
    from segloss_hub.nn.weighting import WeightingName

GROUP = "segloss_hub"
OWN = Source("segloss-hub", "segloss-hub", __version__)
T = TypeVar("T")


class Hub:
    """A set of plugins. `Hub.discover()` reads the installed ones; `Hub()` starts empty."""

    def __init__(self) -> None:
        self.cards: dict[str, LossCard] = {}
        self.problems: list[Problem] = []
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(Hooks)
        self._sources: dict[str, Source] = {}
        self._register(OWN, _hooks_of(own))

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
        with _no_garbage_collection():
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

    def contributions(
        self, hook: str, kind: type[T], **arguments: object
    ) -> list[tuple[Source, T]]:
        """What the plugins bring through a hook other than `segloss_losses`, and from whom.

        The hub's own comes first, then plugin by plugin. Whatever is not of the `kind`, or raises,
        is left out and becomes a problem.
        """
        found = []
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            source = self._sources[implementation.plugin_name]
            call = partial(
                implementation.function, *(arguments[name] for name in implementation.argnames)
            )
            try:
                found += [(source, item) for item in _items(hook, call, kind)]
            except StepError as failed:
                self._problem(source, failed.step, failed.exception, failed.hint)
        return sorted(found, key=lambda pair: (pair[0] is not OWN, pair[0].name))

    def datasets(self) -> dict[str, Dataset]:
        """The data sets that the hub and the plugins bring, by name; a second one of a name is left
        out and becomes a problem."""
        from segloss_hub.contributions import Dataset  # seldom asked for

        datasets: dict[str, Dataset] = {}
        for source, dataset in self.contributions("segloss_datasets", Dataset):
            if dataset.name in datasets:
                error = ValueError(f"there is a data set {dataset.name!r} already")
                self._problem(source, "validate", error, "give the data set another name")
            else:
                datasets[dataset.name] = dataset
        return datasets

    def _missing(self, name: str) -> HubError:
        for problem in self.problems:
            if problem.name == name:
                return PluginError(f"the loss {name!r} is installed but does not work: {problem}")
        from segloss_hub.catalog.released import known_losses  # only a failure pays for reading it

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
        self.problems.append(source.problem(step, error, hint))

    def _source(self, point: EntryPoint) -> Source:
        try:
            if point.dist is not None:
                return Source(point.name, *_name_and_version(point.dist))
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
        claims = defaultdict(list)
        for _, source in pairs:
            claims[source.name].append(source)
        kept = []
        for point, source in pairs:
            others = [
                f"{other.distribution} {other.version}"
                for other in claims[source.name]
                if other is not source
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
            hooks = _hooks_of(load())
            losses = hooks.pop("segloss_losses", None)  # called here and now, and never again
            self._register(source, hooks)
            if losses is None:
                return
            card = _checked(source, _items("segloss_losses", losses, LossCard))
        except StepError as failed:
            self._problem(source, failed.step, failed.exception, failed.hint)
        else:
            self.cards[card.name] = card

    def _register(self, source: Source, hooks: dict[str, Any]) -> None:
        identity = f"{source.distribution}:{source.name}"
        if identity in self._sources:
            error = ValueError(f"{identity} is registered already")
            raise StepError("register", error, "register a plugin once")
        self._sources[identity] = source
        if not hooks:
            return
        plugin = ModuleType(identity)
        vars(plugin).update(hooks)
        hint = "see segloss_hub/hookspecs.py for what a plugin may implement"
        attempt("register", hint, lambda: self._manager.register(plugin, identity))
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            self._manager.unregister(plugin)
            hint = f"a hook is misspelt; the hub calls {', '.join(HOOKS)}"
            raise StepError("register", error, hint) from error

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


def _name_and_version(distribution: Distribution) -> tuple[str, str]:
    """From the first lines of the metadata, which `distribution.name` parses whole, every time."""
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    head, _, _ = text.partition("\n\n")
    fields = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
    return fields["Name"].strip(), fields["Version"].strip()


def _hooks_of(plugin: object) -> dict[str, Any]:
    """What of a plugin is marked as a hook: pluggy, given all of it, would examine every attribute,
    which with many plugins takes as long as importing them. Raises `StepError` if there is none.
    """

    def marked() -> dict[str, Any]:
        values = {name: getattr(plugin, name, None) for name in dir(plugin)}
        return {n: value for n, value in values.items() if hasattr(value, f"{PROJECT}_impl")}

    hint = "implement one: segloss_losses returns the card of a loss, in a list"
    hooks = attempt("collect", hint, marked)
    if not hooks:
        raise StepError("collect", TypeError(f"no hook of {', '.join(HOOKS)}"), hint)
    return hooks


def _items(hook: str, call: Callable[[], object], kind: type[T]) -> list[T]:
    """The items of a hook's list. Raises `StepError` for anything else than a list of a kind."""
    hint = f"the hook {hook} returns a list of {kind.__name__}"
    result = attempt("collect", hint, call)
    if isinstance(result, (str, bytes, Mapping, kind)) or not isinstance(result, Iterable):
        error = TypeError(f"{hook} returned {type(result).__name__}, not a list")
        raise StepError("collect", error, hint)
    items = attempt("collect", hint, lambda: list(result))
    for item in items:
        if not isinstance(item, kind):
            error = TypeError(f"{hook} returned a list with {type(item).__name__} in it")
            raise StepError("collect", error, hint)
    return items


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Importing makes no garbage; with many plugins, looking for it takes a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _import(point: EntryPoint) -> object:
    def load() -> object:
        with redirect_stdout(sys.stderr):  # a plugin that prints must not spoil `--json`
            return point.load()

    return attempt("import", f"run `python -c 'import {point.module}'` to see where", load)


def _checked(source: Source, cards: list[LossCard]) -> LossCard:
    hint = f"bring exactly one valid card, named {source.name!r} like the entry point"
    if len(cards) != 1:
        raise StepError("validate", ValueError(f"{len(cards)} cards instead of one"), hint)
    # Written and read again, since a card can be made without being validated.
    card = attempt(
        "validate", hint, lambda: LossCard.model_validate_json(cards[0].model_dump_json())
    )
    if card.name != source.name:
        error = ValueError(f"the card is named {card.name!r}, the entry point {source.name!r}")
        raise StepError("validate", error, hint)
    return card


def _variable(name: str) -> set[str] | None:
    value = os.environ.get(name)
    return None if value is None else {word.strip() for word in value.split(",") if word.strip()}


def _words(value: str | Iterable[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _choice(kind: str, value: str, choices: Iterable[str]) -> str:
    if value not in choices:
        raise ValueError(f"there is no {kind} {value!r}. {did_you_mean(value, choices)}")
    return value
