"""`segloss build` writes all generated files of a repository, and --check compares them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from catalogues import make_entry
from helpers import ROOT, Run, card_source, pip_install, write_plugin
from PIL import Image

from segloss_hub import HubError, LossCard
from segloss_hub.catalog.record import Catalog, Entry
from segloss_hub.catalog.released import known_plugins
from segloss_hub.catalog.text import read_catalog, write_entries
from segloss_hub.cli import segloss as command_line
from segloss_hub.publish.artefacts import Artefact, artefacts, find_stale, write_artefact

PATHS = {
    "README.md",
    "references.bib",
    "segloss_hub/registry.json",
    "segloss_hub/registry.schema.json",
    "docs/taxonomy-wide-light.svg",
    "docs/taxonomy-wide-dark.svg",
    "docs/taxonomy-narrow-light.svg",
    "docs/taxonomy-narrow-dark.svg",
    "docs/taxonomy.png",
}
NO_SECTION = """
@hookimpl
def segloss_sections(cards):
    raise OSError("no section today")
"""
SECTION = """
from segloss_hub import Section

@hookimpl
def segloss_sections(cards):
    return [Section(title={title!r}, text="%d losses" % len(cards), columns=["*"], rows=[["|"]])]
"""


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> list[Artefact]:
    root = tmp_path_factory.mktemp("wanted")
    shutil.copy(ROOT / "registry.yaml", root)
    return artefacts(root, command_line)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a record and nothing else."""
    root = tmp_path / "checkout"
    root.mkdir()
    shutil.copy(ROOT / "registry.yaml", root)
    return root


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to import three installed plugins from that bring sections, or fail to."""
    folder = tmp_path_factory.mktemp("strangers")
    sections = {
        "listed-here": SECTION.format(title="Of *listed*"),
        "unlisted": SECTION.format(title="Of unlisted"),
        "raising": NO_SECTION,
    }
    projects = [
        write_plugin(folder, name, card_source(name) + hook) for name, hook in sections.items()
    ]
    pip_install(projects, folder / "site")
    return folder / "site"


def record(root: Path, name: str) -> Entry:
    """Record a plugin of `strangers` as one of the repository."""
    entry = make_entry(
        name, title="A Loss", summary="A loss for a test.", home=f"contrib/segloss-plugin-{name}"
    )
    write_entries(root / "registry.yaml", [entry])
    return entry


def test_all_is_written_once_and_the_same_whatever_else_there_is(
    segloss: Run, checkout: Path, wanted: list[Artefact], strangers: Path
) -> None:
    # In another process, with other hashes, other plugins, and without what is optional.
    blocked = ["torch", "mmengine", "mmseg", "mmcv", "cv2", "numba", "edt", "bibtexparser"]
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
        f"sys.argv = ['segloss', 'build', '--root', {str(checkout)!r}]\n"
        "from segloss_hub.cli import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(strangers), "PYTHONHASHSEED": "7", "PATH": "", "TZ": "Asia/Tokyo"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert {line.removesuffix(" written") for line in result.stdout.splitlines()} == PATHS
    written = tree(checkout)
    assert written.keys() == PATHS | {"registry.yaml"}
    for artefact in wanted:
        assert written[artefact.path] == artefact.content, artefact.path
    again = segloss("build", cwd=checkout)
    assert (again.returncode, again.stdout) == (0, "9 files are up to date\n")
    assert tree(checkout) == written


def test_check_names_all_that_is_stale_or_missing_and_writes_nothing(
    segloss: Run, checkout: Path, wanted: list[Artefact]
) -> None:
    for artefact in wanted:
        write_artefact(checkout, artefact)
    readme, schema = checkout / "README.md", checkout / "segloss_hub" / "registry.schema.json"
    readme.write_text(readme.read_text().replace("One minus the soft Dice", "One minus the rice"))
    schema.write_bytes(schema.read_bytes().replace(b"\n", b"\r\n"))
    (checkout / "references.bib").unlink()
    (checkout / "docs" / "taxonomy-wide-dark.svg").write_bytes(b"\xff\xfe")
    (checkout / "docs" / "taxonomy.png").write_bytes(b"no picture")
    before = tree(checkout)
    result = segloss("build", "--check", "--root", str(checkout))
    assert result.returncode == 1 and result.stdout == ""
    assert tree(checkout) == before
    faults = result.stderr
    for line in (
        "README.md is out of date in line ",
        "segloss_hub/registry.schema.json is out of date: its lines end otherwise\n",
        "references.bib is missing\n",
        "docs/taxonomy-wide-dark.svg is out of date in line 1\n",
        "docs/taxonomy.png shows another picture\n",
        f"    -> segloss build --root {checkout}\n",
    ):
        assert line in faults
    assert "minus the rice" in faults and "minus the soft Dice" in faults
    assert "taxonomy-wide-light" not in faults and "registry.json" not in faults
    # The record is held against the plugins, too: here, their folders are missing.
    assert "there is no folder plugins/segloss-plugin-dice" in faults
    assert "segloss registry remove segloss-plugin-dice" in faults


def test_a_picture_may_be_compressed_otherwise_but_not_drawn_otherwise(
    checkout: Path, wanted: list[Artefact]
) -> None:
    (picture,) = (artefact for artefact in wanted if artefact.path == "docs/taxonomy.png")
    path = checkout / picture.path
    path.parent.mkdir()
    image = Image.open(BytesIO(picture.content)).convert("RGB")
    image.save(path, compress_level=1)
    assert path.read_bytes() != picture.content
    assert find_stale(checkout, [picture]) == []
    red, *others = image.getpixel((5, 5))
    image.putpixel((5, 5), ((red + 100) % 256, *others))
    image.save(path)
    assert [str(stale) for stale in find_stale(checkout, [picture])] == [
        "docs/taxonomy.png shows another picture"
    ]
    image.crop((0, 0, 10, 10)).save(path)
    assert len(find_stale(checkout, [picture])) == 1


def test_a_plugin_of_the_repository_has_its_section(
    segloss: Run, checkout: Path, strangers: Path
) -> None:
    record(checkout, "listed-here")
    environment = {"PYTHONPATH": str(strangers)}
    assert segloss("build", cwd=checkout, env=environment).returncode == 0
    page = (checkout / "README.md").read_text()
    count = len(read_catalog(checkout / "registry.yaml").plugins)
    assert f"## Of \\*listed\\*\n\n{count} losses\n\n| \\*  |\n| --- |\n| \\|  |\n\n" in page
    assert "- [Of \\*listed\\*](#of-listed)\n" in page
    assert "`pip install segloss-plugin-listed-here`" in page
    assert "unlisted" not in page


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raising", "no section today"),
        ("nowhere", "pip install --editable contrib/segloss-plugin-"),
    ],
)
def test_without_a_section_nothing_is_written(
    segloss: Run, checkout: Path, strangers: Path, name: str, message: str
) -> None:
    record(checkout, name)
    before = tree(checkout)
    result = segloss("build", cwd=checkout, env={"PYTHONPATH": str(strangers)})
    assert result.returncode == 1
    assert f"segloss-plugin-{name}" in result.stderr and message in result.stderr
    assert "Traceback" not in result.stderr and tree(checkout) == before


def test_without_matplotlib_the_message_says_how_to_get_it(checkout: Path) -> None:
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        f"sys.argv = ['segloss', 'build', '--root', {str(checkout)!r}]\n"
        "from segloss_hub.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert "pip install matplotlib" in result.stderr and "Traceback" not in result.stderr
    assert tree(checkout).keys() == {"registry.yaml"}


def test_without_a_record_the_message_says_what_is_missing(segloss: Run) -> None:
    result = segloss("build")
    assert result.returncode == 1
    assert "there is no registry.yaml" in result.stderr and "--root" in result.stderr


def test_a_damaged_record_of_checks_is_named(checkout: Path) -> None:
    home = checkout / "plugins" / "segloss-plugin-dice"
    home.mkdir(parents=True)
    (home / "conformance.json").write_text('{"checks": ["oops"]}')
    with pytest.raises(HubError, match="segloss check plugins/segloss-plugin-dice --record"):
        artefacts(checkout, command_line)


def test_the_compiled_record_and_its_schema_are_those_of_the_models(
    wanted: list[Artefact],
) -> None:
    contents = {artefact.path: artefact.content for artefact in wanted}
    compiled = json.loads(contents["segloss_hub/registry.json"])
    assert Catalog.model_validate(compiled) == read_catalog(ROOT / "registry.yaml")
    assert list(known_plugins()) == compiled["plugins"]
    schema = json.loads(contents["segloss_hub/registry.schema.json"])
    assert schema["required"] == ["plugins"] and schema["additionalProperties"] is False
    assert schema["$defs"]["Entry"]["properties"].keys() == Entry.model_fields.keys()
    assert schema["$defs"]["LossCard"]["properties"].keys() == LossCard.model_fields.keys()
