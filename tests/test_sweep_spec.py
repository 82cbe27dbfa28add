"""SPEC.yaml: the trials that it stands for, and what it is refused for."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import Run

from segloss_hub import list_losses
from segloss_hub.bench.sweep import spec as documented
from segloss_hub.bench.sweep.rungs import Rungs
from segloss_hub.bench.sweep.spec import MAX_SEEDS, Spec, SpecError, read_spec
from segloss_hub.cli.sweep_ import command
from segloss_hub.errors import (
    ExpressionError,
    HubError,
    ParameterError,
    UnknownLossError,
    UnknownParameterError,
)
from segloss_hub.expression import parse_expression
from segloss_hub.untrusted import MAX_BYTES

LEAST: dict[str, Any] = {"losses": "dice", "datasets": "nuclei"}

Read = Callable[[str], Spec]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "SPEC.yaml"


@pytest.fixture
def read(path: Path) -> Read:
    """Read the text of a file."""

    def reading(text: str) -> Spec:
        path.write_text(text)
        return read_spec(path)

    return reading


def written(**fields: Any) -> str:
    """The text of a file with the least that there must be, and these fields."""
    return json.dumps({**LEAST, **fields})  # JSON is YAML, too


def refused(read: Read, text: str) -> str:
    """Why a file is refused, after its name."""
    with pytest.raises(SpecError) as caught:
        read(text)
    name, _, reason = str(caught.value).partition("SPEC.yaml ")
    assert isinstance(caught.value, HubError) and Path(name).is_dir()
    return reason


# What a file stands for


def test_the_documented_example_is_what_it_says(read: Read) -> None:
    example = textwrap.dedent((documented.__doc__ or "").split("\n\n")[1])
    spec = read(example)
    trials = spec.trials()
    assert len(trials) == 3 * 3 * (1 + 1 + 3)  # seeds, severities, and focal with three gammas
    assert len({trial.label for trial in trials}) == len(trials)
    assert {trial.iterations for trial in trials} == {160}
    assert {(trial.stress, trial.severity) for trial in trials} == {
        (None, 0),
        ("label-noise", 0.2),
        ("label-noise", 0.4),
    }
    assert [trial.params for trial in trials if trial.loss == "focal"][:3] == [
        {"focal": {"gamma": gamma}} for gamma in (1, 2, 3)
    ]
    assert {str(trial.params) for trial in trials if trial.loss != "focal"} == {"{}"}
    assert spec.rungs() == Rungs("mIoU", factor=3, first=20)


def test_a_single_value_is_a_list_of_one(read: Read) -> None:
    single = read("losses: dice\ndatasets: nuclei\nparams: {dice: {squared: true}}\nseeds: 1")
    listed = "losses: [dice]\ndatasets: [nuclei]\nparams: {dice: {squared: [true]}}\nseeds: [0]"
    assert single == read(listed)
    assert len(single.trials()) == 1


def test_the_least_is_a_loss_and_a_data_set(read: Read) -> None:
    (trial,) = read(written()).trials()
    assert (trial.dataset, trial.loss, trial.seed, trial.iterations) == ("nuclei", "dice", 0, 160)
    assert (trial.params, trial.stress) == ({}, None)


@pytest.mark.parametrize(
    ("seeds", "expected"), [(4, [0, 1, 2, 3]), ([7], [7]), ([5, 2], [5, 2]), (MAX_SEEDS, None)]
)
def test_seeds_are_a_count_or_a_list(read: Read, seeds: Any, expected: list[int] | None) -> None:
    spec = read(written(seeds=seeds))
    assert list(spec.seeds) == (expected or list(range(MAX_SEEDS)))
    assert [trial.seed for trial in spec.trials()] == list(spec.seeds)


def test_all_losses_of_a_seed_come_before_the_next_seed(read: Read) -> None:
    trials = read(written(losses=["dice", "focal"], seeds=[1, 0], datasets=["b", "a"])).trials()
    expected = [(s, d, loss) for s in (1, 0) for d in "ba" for loss in ("dice", "focal")]
    assert [(trial.seed, trial.dataset, trial.loss) for trial in trials] == expected


def test_all_stands_for_the_installed_losses(read: Read) -> None:
    spec = read(written(losses="all", params={"focal": {"gamma": [1, 2]}}))
    found = [trial.loss for trial in spec.trials()]
    assert len(found) == len(list_losses()) + 1 and found.count("focal") == 2
    terms = {term.name for loss in found for term in parse_expression(loss)}
    assert terms == set(list_losses())


def test_parameters_are_those_of_every_loss_that_has_the_term(read: Read) -> None:
    losses = ["dice", "focal", "0.5 * focal + dice", "cross-entropy"]
    params = {"focal": {"gamma": [1, 2, 3]}, "dice": {"squared": [True, False]}}
    found = [(t.loss, t.params) for t in read(written(losses=losses, params=params)).trials()]
    dice = [{"dice": {"squared": squared}} for squared in (True, False)]
    focal = [{"focal": {"gamma": gamma}} for gamma in (1, 2, 3)]
    assert found == [
        *(("dice", params) for params in dice),
        *(("focal", params) for params in focal),
        *(("0.5 * focal + dice", {**one, **other}) for one in focal for other in dice),
        ("cross-entropy", {}),
    ]


@pytest.mark.parametrize(("loss", "term"), [("gdl", "dice"), ("dice", "gdl"), ("gdl", "gdl")])
def test_parameters_find_a_loss_by_an_alias(read: Read, loss: str, term: str) -> None:
    spec = read(written(losses=f"ce + {loss}", params={term: {"squared": [True, False]}}))
    assert [trial.params for trial in spec.trials()] == [
        {term: {"squared": squared}} for squared in (True, False)
    ]


def test_a_value_may_be_a_list_or_nothing(read: Read) -> None:
    values = [[0.3, 0.7], None]
    spec = read(written(params={"dice": {"class_weight": values}}))
    assert [trial.params["dice"]["class_weight"] for trial in spec.trials()] == values


def test_axes_of_stress_are_not_combined(read: Read) -> None:
    trials = read(written(stress={"label-noise": [0.2, 0.4], "few-images": 0.5})).trials()
    assert [(trial.stress, trial.severity) for trial in trials] == [
        ("label-noise", 0.2),
        ("label-noise", 0.4),
        ("few-images", 0.5),
    ]


@pytest.mark.parametrize(
    ("fields", "rungs"),
    [
        ({"iterations": 180}, Rungs("mIoU", factor=3, first=20)),
        ({"iterations": 180, "halving": {}}, Rungs("mIoU", factor=3, first=20)),
        ({"iterations": 64, "halving": {"factor": 4}}, Rungs("mIoU", factor=4, first=4)),
        ({"iterations": 10, "halving": {"factor": 100}}, Rungs("mIoU", factor=100, first=1)),
        ({"halving": {"metric": "HD95", "first": 159}}, Rungs("HD95", factor=3, first=159)),
    ],
)
def test_halving_has_defaults(read: Read, fields: dict[str, Any], rungs: Rungs) -> None:
    assert read(written(**fields)).rungs() == rungs


def test_a_data_set_is_not_opened_to_count_trials(read: Read) -> None:
    assert [trial.dataset for trial in read(written(datasets="nowhere")).trials()] == ["nowhere"]


# What a file is refused for


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": 3}, "seed: unknown field. Did you mean 'seeds'?"),
        ({"halving": {"facter": 3}}, "halving.facter: unknown field. Did you mean 'factor'?"),
        ({"losses": []}, "losses: it is empty"),
        ({"losses": None}, "losses: it is empty"),
        ({"losses": ["dice", 3]}, "losses.1: Input should be a valid string (got 3)"),
        ({"datasets": []}, "datasets: it is empty"),
        ({"seeds": 0}, "seeds: expected 1 to 1,000 seeds, or a list of them (got 0)"),
        ({"seeds": -1}, "seeds: expected 1 to 1,000 seeds, or a list of them (got -1)"),
        ({"seeds": 1001}, "seeds: expected 1 to 1,000 seeds, or a list of them (got 1001)"),
        ({"seeds": 10**4000}, "seeds: expected 1 to 1,000 seeds, or a list of them"),
        ({"seeds": []}, "seeds: it is empty"),
        ({"seeds": [0, -1]}, "seeds.1: Input should be greater than or equal to 0"),
        ({"seeds": [2**31]}, "seeds.0: Input should be less than 2147483648"),
        ({"seeds": True}, "seeds.0: Input should be a valid integer (got True)"),
        ({"seeds": "3"}, "seeds.0: Input should be a valid integer (got '3')"),
        ({"iterations": 9}, "iterations: Input should be greater than or equal to 10 (got 9)"),
        ({"iterations": "many"}, "iterations: Input should be a valid integer"),
        ({"params": {"dice": {"squared": []}}}, "params.dice.squared: it is empty"),
        ({"params": {"dice": 3}}, "params.dice: Input should be a valid dictionary (got 3)"),
        ({"stress": {"label-noise": 1.1}}, "label-noise.0: Input should be less than or equal to"),
        ({"stress": {"label-noise": [0, -0.1]}}, "label-noise.1: Input should be greater than or"),
        ({"stress": {"label-noise": "nan"}}, "label-noise.0: Input should be"),
        ({"stress": {"label-noise": []}}, "stress.label-noise: it is empty"),
        (
            {"stress": {"label-noize": 0}},
            "no stress axis 'label-noize'. Did you mean 'label-noise'",
        ),
        ({"stress": "label-noise"}, "stress: Input should be a valid dictionary"),
        (
            {"halving": {"metric": "MIOU"}},
            "halving.metric: there is no metric 'MIOU'. Did you mean",
        ),
        ({"halving": {"metric": 3}}, "halving.metric: Input should be a valid string"),
        ({"halving": {"factor": 1}}, "halving.factor: Input should be greater than or equal to 2"),
        ({"halving": {"first": 0}}, "halving.first: Input should be greater than or equal to 1"),
        ({"halving": {"first": 160}}, "halving.first: 160 is no part of 160 iterations"),
        ({"iterations": 10, "halving": {"first": 11}}, "first: 11 is no part of 10 iterations"),
        ({"halving": {"first": True}}, "halving.first: Input should be a valid integer (got True)"),
        ({"stress": {"label-noise": True}}, "should be a valid number (got True)"),
        ({"halving": True}, "halving: Input should be a valid dictionary"),
    ],
)
def test_a_wrong_value_is_named_with_its_field(
    read: Read, fields: dict[str, Any], message: str
) -> None:
    reason = refused(read, written(**fields))
    assert reason.startswith("is no plan of a sweep:\n  ") and message in reason
    assert reason.count("\n") == 1


def test_every_fault_is_named_at_once(read: Read) -> None:
    text = "losses: []\nseeds: 0\nstress: {fog: 0, few-images: 7}\nhalving: {factor: 0}\ncolour: 1"
    places = [line.split(":")[0].strip() for line in refused(read, text).splitlines()[1:]]
    assert sorted(places) == [
        "colour",
        "datasets",
        "halving.factor",
        "losses",
        "seeds",
        "stress.few-images.0",
        "stress.fog.[key]",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no plan of a sweep:\n  the file: "),
        ("just words", "is no plan of a sweep:\n  the file: "),
        ("- losses: dice", "is no plan of a sweep:\n  the file: "),
        ("losses: [", "cannot be read: while parsing"),
        ("losses: dice\nlosses: focal", 'found duplicate key "losses"'),
        ("losses: &a [dice]\ndatasets: *a", "line 1 has an anchor or alias"),
        ("losses: " + "[" * 50 + "]" * 50, "nested too deeply"),
        ("losses: \x00", "cannot be read: unacceptable character"),
        ("seeds: " + "9" * 5000, "cannot be read: "),
        ("#" * (MAX_BYTES + 1), "cannot be read: it has 4,000,001 bytes, more than 4,000,000"),
    ],
)
def test_a_text_that_is_no_mapping_is_refused(read: Read, text: str, message: str) -> None:
    assert message in refused(read, text)


def test_a_bomb_of_aliases_is_refused_before_it_is_expanded(read: Read) -> None:
    lines = ["a0: &a0 [dice, dice, dice, dice, dice, dice, dice, dice, dice]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    assert "anchor or alias" in refused(read, "\n".join([*lines, "losses: *a29"]))


@pytest.mark.parametrize("tag", ["python/object/apply:os.mkdir", "python/object/new:os.mkdir"])
def test_nothing_that_a_file_says_is_executed(read: Read, tmp_path: Path, tag: str) -> None:
    made = tmp_path / "made"
    assert "cannot be read" in refused(read, f"losses: !!{tag} ['{made}']\ndatasets: nuclei")
    assert not made.exists()


def test_a_file_that_is_no_utf_8_or_not_there_is_named(path: Path) -> None:
    with pytest.raises(SpecError, match=r"SPEC\.yaml cannot be read: .*No such file"):
        read_spec(path)
    path.write_bytes(b"losses: \xff")
    with pytest.raises(SpecError, match=r"SPEC\.yaml cannot be read: 'utf-8' codec"):
        read_spec(path)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"losses": ["dice", "focl"]}, UnknownLossError, "no loss 'focl'. Did you mean 'focal'"),
        ({"losses": "dice +"}, ExpressionError, "cannot read '' in 'dice"),
        ({"losses": ["dice", "ce + ce"]}, ExpressionError, "'ce' occurs twice"),
        ({"params": {"dise": {"squared": 1}}}, UnknownLossError, "'dise'. Did you mean 'dice'"),
        ({"params": {"focal": {"gamma": 1}}}, SpecError, "'focal', which is no term.* dice"),
        ({"params": {"focal": {}}}, SpecError, "'focal', which is no term of the losses"),
        (
            {"params": {"dice": {"squard": [True, False]}}},
            UnknownParameterError,
            "no parameter 'squard'. Did you mean 'squared'",
        ),
        (
            {"losses": "ce + dice", "params": {"dice": {"squared": [True, "much"]}}},
            ParameterError,
            "squared='much' is not valid",
        ),
    ],
)
def test_a_loss_or_parameter_that_does_not_exist_is_noticed_before_any_training(
    read: Read, fields: dict[str, Any], error: type[HubError], message: str
) -> None:
    spec = read(written(**fields))
    with pytest.raises(error, match=message):
        spec.trials()


HUNDRED = [number / 100 for number in range(100)]


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"seeds": [*range(1000)], "stress": {"label-noise": [0.5] * 101}}, "101,000"),
        (
            {
                "losses": "focal + tversky + dice",
                "params": {
                    "focal": {"gamma": HUNDRED, "alpha": HUNDRED},
                    "tversky": {"fp_weight": HUNDRED, "fn_weight": HUNDRED},
                },
                "datasets": [f"data-{number}" for number in range(1000)],
            },
            "100,000,000,000",
        ),
    ],
)
def test_a_grid_that_is_too_large_is_refused_before_it_is_built(
    read: Read, fields: dict[str, Any], size: str
) -> None:
    spec = read(written(**fields))
    with pytest.raises(SpecError, match=f"has {size} trials, more than 100,000: split it up"):
        spec.trials()


# The command


needs_cluster = pytest.mark.skipif(
    None in map(find_spec, ("distributed", "optuna", "mmseg")),
    reason="a sweep needs segloss-hub[bench]",
)


@needs_cluster
def test_the_command_tells_the_faults_of_a_file(segloss: Run, path: Path) -> None:
    path.write_text(written(seed=3))
    done = segloss("sweep", path.name)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "segloss: SPEC.yaml is no plan of a sweep:\n"
        "  seed: unknown field. Did you mean 'seeds'? (got 3)\n"
    )
    assert list(path.parent.iterdir()) == [path]


@needs_cluster
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"losses": "dise"}, "there is no loss 'dise'. Did you mean 'dice'"),
        ({"datasets": ["nuclei", "nucleus"]}, "no data set 'nucleus'. Did you mean 'nuclei'"),
    ],
)
def test_the_command_makes_no_folder_for_what_does_not_exist(
    path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], message: str
) -> None:
    path.write_text(written(**fields))
    monkeypatch.chdir(path.parent)
    with pytest.raises(HubError, match=message):
        CliRunner().invoke(command, [path.name], catch_exceptions=False)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2", "--scheduler", "tcp://10.0.0.1:8786"], "--workers are those of this"),
        (["--workers", "0"], "0 is not in the range x>=1"),
        (["--out", "SPEC.yaml"], "Directory 'SPEC.yaml' is a file"),
        (["--halving", "SPEC.yaml"], "unexpected extra argument"),
    ],
)
def test_a_wrong_command_line_ends_with_2(
    path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    path.write_text(written())
    monkeypatch.chdir(path.parent)
    done = CliRunner().invoke(command, [path.name, *options])
    assert done.exit_code == 2 and message in done.output
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_not_there_is_a_wrong_command_line(tmp_path: Path) -> None:
    for place in (tmp_path / "none.yaml", tmp_path):
        done = CliRunner().invoke(command, [str(place)])
        assert done.exit_code == 2 and "Invalid value for 'SPEC'" in done.output


def test_a_sweep_without_its_packages_says_what_to_install(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text(written())
    for name in [name for name in sys.modules if name.startswith("segloss_hub.bench.sweep.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(HubError, match=r"install 'segloss-hub\[mmseg,bench\]'"):
        CliRunner().invoke(command, [str(path)], catch_exceptions=False)
