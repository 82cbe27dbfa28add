"""Checks that any loss plugin can run on itself, with pytest."""

from segloss_hub.testing.oracle import OracleCase, parametrize_oracle

__all__ = ["OracleCase", "parametrize_oracle"]
