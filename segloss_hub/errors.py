"""The errors the hub raises; each is built from one message alone, so that it can be re-raised."""

from __future__ import annotations

from collections.abc import Iterable


class HubError(Exception):
    """Base of every error that is the hub's own."""


class UnknownLossError(HubError, LookupError):
    """No installed loss has this name."""


class PluginError(HubError, RuntimeError):
    """A plugin is installed but does not work."""


class ExpressionError(HubError, ValueError):
    """A loss expression such as ``"dice + 0.5 * boundary"`` cannot be read."""


class ParameterError(HubError, ValueError):
    """A parameter of a loss has a value that it does not accept."""


class UnknownParameterError(HubError, TypeError):
    """A loss has no parameter of this name."""


class MissingInputError(HubError, ValueError):
    """A loss was called without an extra input that it cannot do without."""


def nearest(name: str, choices: Iterable[str], count: int = 3) -> list[str]:
    """The choices spelt most like `name`, best first."""
    from difflib import get_close_matches  # only a failure pays for importing it

    return get_close_matches(name.lower(), list(choices), n=count, cutoff=0.5)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A sentence with the nearest choices, or with all of them when none is near."""
    known = sorted(choices)
    close = nearest(name, known)
    if close:
        return f"Did you mean {_either(close)}?"
    return f"Valid choices: {', '.join(known)}." if known else "There are no valid choices."


def _either(names: list[str]) -> str:
    quoted = [repr(name) for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
