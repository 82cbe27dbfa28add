"""Losses for the tests of the conformance kit: a few right ones, and many deliberately wrong ones.

Each wrong loss has one fault, taken from life where possible, and names the check that must catch
it. The right ones, from which they differ by that fault, pass every check.
"""

from wrong_losses import mathematics, modules, published
from wrong_losses.right import RIGHT, WRONG, Wrong, subject_of

__all__ = ["RIGHT", "WRONG", "Wrong", "mathematics", "modules", "published", "subject_of"]
