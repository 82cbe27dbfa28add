"""Read a plugin's project folder without importing or running anything in it."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from segloss_hub.card import LossCard
from segloss_hub.errors import HubError
from segloss_hub.hookspecs import PROJECT
from segloss_hub.signature import ParameterInfo, read_parameters

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECORDS = ("LossCard", "Paper", "Code", "Relation", "Capabilities", "Claim")


class ProjectError(HubError, ValueError):
    """A folder is no plugin project, or cannot be read without importing it."""


@dataclass(frozen=True)
class Project:
    """What the files of a plugin's project say."""

    folder: Path
    distribution: str
    version: str | None  # none where the build computes it
    entry_points: dict[str, str]

    @property
    def name(self) -> str:
        """The name of the loss: that of the entry point."""
        return next(iter(self.entry_points))

    @property
    def module(self) -> str:
        """The module with the hooks."""
        return self.entry_points[self.name]

    def card(self) -> LossCard:
        """The card, if the module with the hooks spells it out: `LossCard(...)` with literals."""
        path = self._source(self.module)
        try:
            return LossCard.model_validate(_card_fields(path.read_text(encoding="utf-8")))
        except (OSError, SyntaxError, LookupError, ValueError, RecursionError) as error:
            faults = f"\n{error}" if isinstance(error, ValidationError) else f" ({error})"
            raise ProjectError(f"the card in {path} cannot be read{faults}") from error

    def parameters(self) -> list[ParameterInfo]:
        """The parameters of the class that the card names, from its source.

        Raises `PluginError` if there is no such module or class.
        """
        roots = [str(root) for root in (self.folder, self.folder / "src")]
        sys.path[:0] = roots  # where a module is looked for, not run
        try:
            return read_parameters(self.card().implementation)
        finally:
            del sys.path[: len(roots)]

    def _source(self, module: str) -> Path:
        for root in (self.folder, self.folder / "src"):
            base = root.joinpath(*module.split("."))
            for path in (base / "__init__.py", base.with_suffix(".py")):
                if path.is_file():
                    return path
        raise ProjectError(f"{self.folder} has no module {module!r}")


def read_project(folder: Path) -> Project:
    """What `pyproject.toml` in a folder says. Raises `ProjectError` if it describes no plugin."""
    path = folder / "pyproject.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        points = dict(table.get("entry-points", {}).get(PROJECT, {}))
        name, version = str(table["name"]), table.get("version")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProjectError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    if len(points) != 1:
        raise ProjectError(
            f"{path} has {len(points)} entry points in [project.entry-points.{PROJECT}], not one"
        )
    return Project(folder, name, version if isinstance(version, str) else None, points)


def _card_fields(source: str) -> dict[str, Any]:
    """The arguments of the only `LossCard(...)` in a module."""
    tree = ast.parse(source)
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and _called(n) == "LossCard"]
    if len(calls) != 1:
        raise LookupError(f"it has {len(calls)} times LossCard(...) instead of once")
    constants = {  # plain ones alone: names of names might stand for gigabytes
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    fields: dict[str, Any] = _value(calls[0], constants)
    return fields


def _value(node: ast.expr, constants: dict[str, ast.Constant]) -> Any:
    """A literal, with records of the card inside and the module's constants by their names."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Tuple() | ast.List():
            return [_value(item, constants) for item in node.elts]
        case ast.Dict():
            pairs = zip(node.keys, node.values)
            return {_value(k, constants): _value(v, constants) for k, v in pairs if k is not None}
        case ast.Call() if _called(node) in RECORDS and not node.args:
            return {str(k.arg): _value(k.value, constants) for k in node.keywords}
        case ast.Name() if node.id in constants:
            return constants[node.id].value
    return ast.literal_eval(node)


def _called(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]
