"""Read the parameters of a loss from its source, without importing it (and so without torch).

Parameters are declared once, in the signature of `__init__`; this reads the same declaration that
validates them at run time: `name: Annotated[type, Field(..., description=...)] = default`, and the
fields of the TypedDict behind `**common: Unpack[Common]`.
"""

from __future__ import annotations

import ast
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from segloss_hub.errors import PluginError

BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


@dataclass(frozen=True)
class ParameterInfo:
    """One parameter as a person reads it."""

    name: str
    type: str
    default: str
    bounds: str
    description: str


def read_parameters(implementation: str) -> list[ParameterInfo]:
    """The parameters of `"package.module:Class"`: its own first, then the common ones.

    Raises `PluginError` if there is no such module or class, or its source cannot be read.
    """
    module, _, class_name = implementation.partition(":")
    try:
        found = _find_class(module, class_name)
        return _of_class(*found)
    except (ImportError, LookupError, OSError, RecursionError, SyntaxError, ValueError) as error:
        raise PluginError(
            f"{implementation!r} cannot be read ({type(error).__name__}: {error}); "
            "check the implementation string of the card"
        ) from error


def _of_class(module: str, definition: ast.ClassDef) -> list[ParameterInfo]:
    init = next((n for n in definition.body if _is_init(n)), None)
    if init is None:  # inherited from the first base that can be read
        return _of_class(*_find_class(module, ast.unparse(definition.bases[0])))
    assert isinstance(init, ast.FunctionDef)
    arguments = init.args
    named = [*arguments.args[1:], *arguments.kwonlyargs]
    positional = [None] * (len(arguments.args) - 1 - len(arguments.defaults))
    defaults = [*positional, *arguments.defaults, *arguments.kw_defaults]
    own = [_info(module, a.arg, a.annotation, default) for a, default in zip(named, defaults)]
    taken = {info.name for info in own}  # an own default replaces the common one
    return own + [info for info in _common(module, arguments.kwarg) if info.name not in taken]


def _common(module: str, kwarg: ast.arg | None) -> list[ParameterInfo]:
    annotation = kwarg.annotation if kwarg else None
    if not (isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Unpack"):
        return []
    return _fields(*_find_class(module, ast.unparse(annotation.slice)))


def _fields(module: str, options: ast.ClassDef) -> list[ParameterInfo]:
    """The fields of a TypedDict, inherited ones first."""
    bases = [ast.unparse(base) for base in options.bases]
    inherited = [_fields(*_find_class(module, name)) for name in bases if name != "TypedDict"]
    own = [
        _info(module, ast.unparse(field.target), field.annotation, None)
        for field in options.body
        if isinstance(field, ast.AnnAssign)
    ]
    return [*(info for fields in inherited for info in fields), *own]


def _info(
    module: str, name: str, annotation: ast.expr | None, default: ast.expr | None
) -> ParameterInfo:
    kind, metadata = annotation, list[ast.expr]()
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        kind, *metadata = cast(ast.Tuple, annotation.slice).elts
    calls = [item for item in metadata if isinstance(item, ast.Call)]
    field = {k.arg: k.value for call in calls for k in call.keywords if k.arg}
    shown = default or field.get("default")
    return ParameterInfo(
        name=name,
        type="Any" if kind is None else ast.unparse(_Plain(module).visit(deepcopy(kind))),
        default="required" if shown is None else ast.unparse(shown),
        bounds=", ".join(f"{s} {ast.unparse(field[b])}" for b, s in BOUNDS.items() if b in field),
        description=str(ast.literal_eval(field["description"])) if "description" in field else "",
    )


class _Plain(ast.NodeTransformer):
    """Types as a person reads them: aliases spelt out, `Annotated[int, ...]` as `int`."""

    def __init__(self, module: str) -> None:
        self.module = module

    def visit_Name(self, node: ast.Name) -> ast.AST:
        try:
            home, found = _find(self.module, node.id)
        except LookupError:
            return node
        return _Plain(home).visit(deepcopy(found.value)) if isinstance(found, ast.Assign) else node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if ast.unparse(node.value) == "Annotated" and isinstance(node.slice, ast.Tuple):
            return cast(ast.AST, self.visit(node.slice.elts[0]))
        node.slice = self.visit(node.slice)
        return node


def _find_class(module: str, name: str) -> tuple[str, ast.ClassDef]:
    home, found = _find(module, name)
    if not isinstance(found, ast.ClassDef):
        raise LookupError(f"{name!r} in module {home!r} is no class")
    return home, found


def _find(module: str, name: str) -> tuple[str, ast.ClassDef | ast.Assign]:
    """The class or alias `name`, followed through imports of the plugin's and the hub's modules."""
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [name]:
            return module, node
        if isinstance(node, ast.ImportFrom) and _package(node.module) in (
            _package(module),
            "segloss_hub",
        ):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find(str(node.module), alias.name)
    raise LookupError(f"module {module!r} has no class {name!r}")


def _package(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _tree(module: str) -> ast.Module:
    path = _source_path(module)
    return _parsed(path, path.stat().st_mtime_ns)


@cache
def _parsed(path: Path, changed: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _source_path(module: str) -> Path:
    """Where a module's source stands, importing at most its outermost package."""
    package, *inner = module.split(".")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"no module named {package!r}")
    path = Path(spec.origin)
    if not inner:
        return path
    base = path.parent.joinpath(*inner)
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    raise ImportError(f"no module named {module!r}")


def _is_init(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == "__init__"
