"""Losses that their papers train beside another one, with the weights that they give."""

from __future__ import annotations

COMBINATIONS = {
    "boundary": "dice + boundary",
    "hausdorff": "dice + 0.002 * hausdorff",
    "active-boundary": "cross-entropy + lovasz-softmax + active-boundary",
    "conditional-boundary": "cross-entropy + conditional-boundary",
    "boundary-aware": "cross-entropy + boundary-aware",
    "inverseform": "cross-entropy + 0.3 * inverseform",
    "lovasz-softmax": "cross-entropy + lovasz-softmax",
    "skeleton-recall": "cross-entropy + dice + skeleton-recall",
}


def as_trained(name: str) -> str:
    """The expression that a loss is trained in; most are trained alone."""
    return COMBINATIONS.get(name, name)
