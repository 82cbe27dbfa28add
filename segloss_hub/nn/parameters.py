"""Parameters of a loss: declared once, in `__init__`, as `Annotated[type, Field(...)]`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from typing_extensions import Unpack

from segloss_hub.errors import ParameterError, UnknownParameterError, did_you_mean


@dataclass(frozen=True)
class Parameter:
    """One parameter: its default, and the adapter that checks a value."""

    name: str
    default: Any
    adapter: TypeAdapter[Any]


def as_list(value: object) -> object:
    """A tensor or array as the lists that it holds, for parameters that take either."""
    return value.tolist() if hasattr(value, "tolist") else value


def parameters_of(cls: Any) -> dict[str, Parameter]:
    """The parameters of a loss class: keywords of its `__init__`, `**common` unfolded."""
    return _parameters(cls)


@cache
def _parameters(cls: Any) -> dict[str, Parameter]:
    init = inspect.getattr_static(cls, "__init__")
    signature = inspect.signature(init)
    hints = get_type_hints(init, include_extras=True)
    parameters: dict[str, Parameter] = {}
    for name, declared in list(signature.parameters.items())[1:]:
        if declared.kind is inspect.Parameter.VAR_KEYWORD:  # comes last: an own default stands
            parameters = parameters | _unfolded(hints[name]) | parameters
        else:
            adapter: TypeAdapter[Any] = TypeAdapter(hints.get(name, Any))
            parameters[name] = Parameter(name, declared.default, adapter)
    return parameters


def checked(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values in their declared types.

    Raises `UnknownParameterError` with the nearest parameter for a name that the loss does not
    have, `ParameterError` with the allowed range for a value that it does not accept.
    """
    known = parameters_of(cls)
    result = {}
    for name, value in values.items():
        if name not in known:
            raise UnknownParameterError(
                f"{cls.__name__} has no parameter {name!r}. {did_you_mean(name, known)}"
            )
        try:
            result[name] = known[name].adapter.validate_python(value)
        except ValidationError as error:
            reasons = "; ".join(_reason(detail) for detail in error.errors())
            raise ParameterError(
                f"{cls.__name__}: {name}={value!r} is not valid: {reasons}"
            ) from None
    return result


def _reason(detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"] if isinstance(part, int))
    return f"item {place}: {detail['msg']}" if place else str(detail["msg"])


def defaults_of(options: Any) -> dict[str, Any]:
    """The defaults of a TypedDict whose fields are `Annotated[type, Field(default=...)]`."""
    hints = get_type_hints(options, include_extras=True)
    return {name: _field(hint).get_default() for name, hint in hints.items()}


def _unfolded(hint: Any) -> dict[str, Parameter]:
    """The fields of `**common: Unpack[SomeTypedDict]`."""
    if get_origin(hint) is not Unpack:
        return {}
    (options,) = get_args(hint)
    hints = get_type_hints(options, include_extras=True)
    return {
        name: Parameter(name, default, TypeAdapter(hints[name]))
        for name, default in defaults_of(options).items()
    }


def _field(hint: Any) -> FieldInfo:
    return next(item for item in get_args(hint) if isinstance(item, FieldInfo))
