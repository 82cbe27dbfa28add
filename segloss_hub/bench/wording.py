"""How numbers of comparisons are written, in reports and on the leaderboards alike."""

from __future__ import annotations

NONE = "-"


def place_text(place: tuple[int, int]) -> str:
    """`3`, or the places between which nothing tells: `3–7`."""
    best, worst = place
    return str(best) if best == worst else f"{best}–{worst}"


def difference_text(mean: float, low: float | None, high: float | None, digits: int) -> str:
    """A difference with its interval, if it has one."""
    if low is None or high is None:
        return f"{mean:+.{digits}f}"
    return f"{mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
