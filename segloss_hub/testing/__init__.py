"""Checks that any loss plugin can run on itself, with pytest or without."""

from segloss_hub.testing.conformance import ConformanceCase, parametrize_conformance
from segloss_hub.testing.oracle import OracleCase, parametrize_oracle

__all__ = ["ConformanceCase", "OracleCase", "parametrize_conformance", "parametrize_oracle"]
