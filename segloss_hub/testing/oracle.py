"""Hold a loss to recorded values and gradients.

A plugin keeps two files beside its tests. `oracle.npz` holds the arrays of every case under
`<case>.logits`, `<case>.target`, `<case>.value`, `<case>.grad` (gradient of the summed value) and
`<case>.<input>` for extra inputs, in float64. `oracle.yaml` says how to reproduce them:

    loss: boundary
    cases:
      bin_idc1_float: {params: {idc: [1]}}
      bin_idc1_given: {record: bin_idc1_float, extras: {distance_map: dist_maps}}

`record` names the arrays when a case uses those of another; `extras` maps an input of the loss to
the array's name; `gradient_of` names the extra input that the recorded gradient is that of, in
place of the logits. The test is three lines:

    @parametrize_oracle(__file__)
    def test_oracle(case):
        case.check()

`record_oracle` writes both files from code that runs in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from segloss_hub.card import Slug
from segloss_hub.discovery import create_loss
from segloss_hub.files import replacing

RELATIVE = 1e-6
NOT_RECORDED = "there is no tests/oracle.yaml: run tests/record_oracle.py"


class _Case(BaseModel):
    model_config = ConfigDict(extra="forbid")

    record: str | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    extras: dict[str, str] = Field(default_factory=dict)
    gradient_of: str = "logits"


class _Mapping(BaseModel):
    model_config = ConfigDict(extra="forbid")

    loss: Slug
    cases: dict[str, _Case]


class OracleCase:
    """One recorded input with its value and gradient, and the parameters that reproduce them."""

    def __init__(self, loss: str, name: str, case: _Case, arrays: dict[str, Tensor]) -> None:
        self.loss, self.name, self.params = loss, name, case.params
        self.extras = {key: arrays[array] for key, array in case.extras.items()}
        self.logits, self.target = arrays["logits"], arrays["target"]
        self.value, self.grad = arrays["value"], arrays["grad"]
        self.gradient_of = case.gradient_of

    def check(self, create: Callable[..., Any] | None = None) -> None:
        """Value and gradient in float64, to 1e-6 relative; `create` builds another loss instead."""
        inputs = {"logits": self.logits, "target": self.target, **self.extras}
        leaf = inputs[self.gradient_of] = inputs[self.gradient_of].clone().requires_grad_()
        build = partial(create_loss, self.loss) if create is None else create
        value = build(**self.params)(**inputs)
        (grad,) = torch.autograd.grad(value.sum(), leaf)
        _assert_near(value.detach(), self.value, f"{self.name}: value")
        _assert_near(grad, self.grad, f"{self.name}: gradient")


class Recording(NamedTuple):
    """The input of a case to record, and the parameters of the loss that reproduces it."""

    logits: Tensor  # (N, C, *S), float64
    target: Tensor
    params: Mapping[str, Any] = {}
    extras: Mapping[str, Tensor] = {}  # by the names of the loss's inputs


def record_oracle(
    test_file: str,
    loss: str,
    reference: Callable[..., Tensor],
    recordings: Mapping[str, Recording],
    *,
    source: str,
) -> None:
    """Write oracle.npz and oracle.yaml beside a file: what `reference` gives, by autograd.

    It is called as `reference(logits, target, **extras, **params)`; `source` says what it is.
    """
    arrays: dict[str, Any] = {}
    cases: dict[str, dict[str, Any]] = {}
    for name, (logits, target, params, extras) in recordings.items():
        leaf = logits.detach().double().requires_grad_()
        value = reference(leaf, target, **extras, **params)
        (grad,) = torch.autograd.grad(value.sum(), leaf)
        tensors = {"logits": leaf, "target": target, "value": value, "grad": grad, **extras}
        arrays |= {f"{name}.{key}": tensor.detach().numpy() for key, tensor in tensors.items()}
        fields = {"params": dict(params), "extras": {key: key for key in extras}}
        cases[name] = {key: field for key, field in fields.items() if field}
    mapping = yaml.safe_dump({"loss": loss, "cases": cases}, sort_keys=False)
    folder = Path(test_file).parent
    with ExitStack() as stack:
        as_npz, as_yaml = (
            stack.enter_context(replacing(folder / name)) for name in ("oracle.npz", "oracle.yaml")
        )
        np.savez_compressed(as_npz, **arrays)
        as_yaml.write_text(f"# Recorded from {source}.\n{mapping}", encoding="utf-8")


def parametrize_oracle(test_file: str) -> Callable[..., Any]:
    """Run a test once for every case recorded beside it; its argument is an `OracleCase`.

    Where nothing is recorded yet, the test is skipped.
    """
    import pytest  # an optional dependency

    if not Path(test_file).with_name("oracle.yaml").exists():
        return pytest.mark.skip(reason=NOT_RECORDED)
    cases = read_oracle(Path(test_file).parent)
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def read_oracle(folder: Path) -> list[OracleCase]:
    """The cases that a folder's oracle.yaml and oracle.npz hold."""
    content = yaml.safe_load((folder / "oracle.yaml").read_text(encoding="utf-8"))
    mapping = _Mapping.model_validate(content)
    arrays = np.load(folder / "oracle.npz")
    return [
        OracleCase(mapping.loss, name, case, _arrays_of(arrays, case.record or name))
        for name, case in mapping.cases.items()
    ]


def _arrays_of(arrays: Any, record: str) -> dict[str, Tensor]:
    prefix = f"{record}."
    found = {
        key.removeprefix(prefix): torch.from_numpy(np.asarray(arrays[key]))
        for key in arrays
        if key.startswith(prefix)
    }
    if not found:
        raise LookupError(f"oracle.npz has no arrays {prefix}*")
    return found


def _assert_near(actual: Tensor, expected: Tensor, what: str) -> None:
    """Elementwise to 1e-6 relative; elements below a millionth of the largest count as that."""
    floor = RELATIVE * RELATIVE * float(expected.abs().max())
    torch.testing.assert_close(
        actual, expected, rtol=RELATIVE, atol=floor, msg=lambda text: f"{what}: {text}"
    )
