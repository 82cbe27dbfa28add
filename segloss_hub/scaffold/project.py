"""The files of a new plugin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from segloss_hub import __version__
from segloss_hub.card import Level, Paper
from segloss_hub.publish.markdown import link
from segloss_hub.scaffold.literals import literal, literals
from segloss_hub.scaffold.names import PREFIX, ScaffoldError, check_name, title_of

OF_ITS_OWN = (".github", "LICENSE", "README.md")  # the hub has these for all in its repository
SKELETON = f"{PREFIX}NAME"  # the folder in the template; in the names within, NAME is replaced too


@dataclass(frozen=True)
class NewPlugin:
    """What a new plugin is made of. Raises `ScaffoldError` for a name that it may not have."""

    name: str
    level: Level
    paper: Paper

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def distribution(self) -> str:
        """The name of the distribution and of its folder."""
        return PREFIX + self.name

    @property
    def package(self) -> str:
        """The name of the Python package."""
        return self.distribution.replace("-", "_")


def write_project(plugin: NewPlugin, into: Path, template: Path | None = None) -> Path:
    """Write the project of a new plugin, the whole of it or nothing; returns its folder.

    Raises `ScaffoldError` if `into` has a folder of that name.
    """
    folder = into / plugin.distribution
    if folder.exists() or folder.is_symlink():
        raise ScaffoldError(f"{str(folder)!r} exists: choose another name or --into, or remove it")
    alone = checkout_around(into) is None
    # Written beside its place: a process that is killed leaves a hidden folder, no half a project.
    with TemporaryDirectory(".unfinished", f".{folder.name}.", into) as temporary:
        project = Path(temporary, folder.name)
        for place, content in _files(plugin, template or template_folder(), alone):
            path = project / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        project.rename(folder)
    return folder


def template_folder() -> Path:
    """The skeleton in the installed package, or in the repository when running from a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "template"
    return installed if installed.exists() else package.parent / "contrib" / "template"


def checkout_around(folder: Path) -> Path | None:
    """The checkout of this repository that a folder lies in, if it does."""
    around = folder.resolve()
    return next((f for f in (around, *around.parents) if (f / "contrib/template").is_dir()), None)


def _files(plugin: NewPlugin, template: Path, alone: bool) -> Iterator[tuple[PurePath, bytes]]:
    """Place and content of every file; `x.j2` is a template of the file x.

    Some are for a plugin that stands `alone`, outside of the hub's repository.
    """
    environment = Environment(
        loader=FileSystemLoader(template),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(link=link, literal=literal, literals=literals)
    values = {**_values(plugin), "alone": alone}
    values["start"] = environment.get_template(f"levels/{plugin.level}.j2").make_module(values)
    skeleton = template / SKELETON
    for path in sorted(path for path in skeleton.rglob("*") if path.is_file()):
        place = path.relative_to(skeleton)
        if place.parts[0].removesuffix(".j2") in OF_ITS_OWN and not alone:
            continue
        content = path.read_bytes()
        if path.suffix == ".j2":
            source = environment.get_template(path.relative_to(template).as_posix())
            place, content = place.with_suffix(""), source.render(values).encode()
        yield PurePath(str(place).replace("segloss_plugin_NAME", plugin.package)), content


def _values(plugin: NewPlugin) -> dict[str, object]:
    major, minor = __version__.split(".")[:2]
    title = title_of(plugin.name)
    return {
        "name": plugin.name,
        "level": plugin.level,
        "paper": plugin.paper,
        "distribution": plugin.distribution,
        "package": plugin.package,
        "title": title,
        "class_name": title.replace(" ", ""),
        "hub_versions": f">={major}.{minor},<{int(major) + 1}",
    }
