"""Checks that any loss plugin can run on itself, with pytest or without."""

from segloss_hub.testing.conformance import ConformanceCase, parametrize_conformance
from segloss_hub.testing.oracle import OracleCase, Recording, parametrize_oracle, record_oracle

__all__ = [
    "ConformanceCase",
    "OracleCase",
    "Recording",
    "parametrize_conformance",
    "parametrize_oracle",
    "record_oracle",
]
