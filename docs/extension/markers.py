"""What is generated, in the places that pages mark: ``<!-- site: commands -->``.

A forge shows a page without it; so a page says in a sentence where else its content is to be had.
"""

import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from itertools import takewhile
from pathlib import Path, PurePosixPath
from posixpath import normpath

import msgspec
from packaging.requirements import Requirement
from sphinx.application import Sphinx

from postbus import stamps
from postbus.cli.markdown import guarantees_table, options_table, table
from postbus.plugins import Scheme, installed_plugins
from postbus.testing import TransportContract
from postbus.testing.promises import promises_of

ROOT = Path(__file__).parents[2]
MARKER = re.compile(r"^<!-- site: (\w+)(?: ([^\n]*))? -->$", re.MULTILINE)
LINK = re.compile(r"^- \[[^\]]+\]\(([^)#:]+\.md)\)", re.MULTILINE)


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put into the markers of a page what they stand for."""
    source[0] = MARKER.sub(lambda found: MAKERS[found[1]](found[2] or ""), source[0])
    if docname == app.config.root_doc:
        source[0] += "".join(contents(source[0], docname))


def contents(text: str, docname: str) -> Iterator[str]:
    """Yield a table of contents for each heading of the first page: what the list below it leads to."""
    for section in text.split("\n## ")[1:]:
        heading, _, rest = section.partition("\n")
        folder = PurePosixPath(docname).parent
        pages = ["/" + normpath(str(folder / link)).removesuffix(".md") for link in LINK.findall(rest)]
        if pages:
            yield "\n".join(["\n\n```{toctree}", ":hidden:", f":caption: {heading}", "", *pages, "```", ""])


def guarantees(_: str) -> str:
    """Return one table of all transports, those in a column that promise the same."""
    return guarantees_table(list(installed_plugins().schemes.values()))


def options(_: str) -> str:
    """Return the options of each plugin, those of schemes that take the same in one table."""
    alike: dict[tuple[str, object], list[Scheme]] = {}
    for scheme in installed_plugins().schemes.values():
        alike.setdefault((scheme.plugin.distribution, scheme.options), []).append(scheme)
    sections: list[str] = []
    last = ""
    for (distribution, _options), schemes in alike.items():
        if distribution != last:
            folder = distribution.removeprefix("postbus-")
            sections.append(f"## {distribution}\n\nMore about it: [{distribution}](../plugins/{folder}/README.md).")
        last = distribution
        names = ", ".join(f"`{scheme.name}://`" for scheme in schemes)
        sections.append(f"{names}:\n\n{options_table(schemes)}")
    return "\n\n".join(sections)


def commands(_: str) -> str:
    """Return every command with its options, as ``--help`` has them."""
    return rst(".. click:: postbus.cli:main\n   :prog: postbus\n   :nested: full")


def api(module: str) -> str:
    """Return what the docstrings of a module say."""
    return rst(f".. automodule:: {module}")


def classes(names: str) -> str:
    """Return what the docstrings of classes say, which may be found by shorter names than where they are."""
    return rst("\n\n".join(f".. autoclass:: {name}" for name in names.split()))


def functions(names: str) -> str:
    """Return what the docstrings of functions say."""
    return rst("\n\n".join(f".. autofunction:: {name}" for name in names.split()))


def findings(_: str) -> str:
    """Return a list of the scripts in ``findings/``, each with what it says of itself first."""
    lines: list[str] = []
    for script in sorted((ROOT / "findings").glob("*.sh")):
        comment = takewhile(lambda line: line.startswith("#"), script.read_text(encoding="utf-8").splitlines()[1:])
        said = " ".join(line.strip("# ") for line in comment)
        lines.append(f"- `{script.name}`: {said}")
    return "\n".join(lines)


def rules(_: str) -> str:
    """Return a table of the rules that a plugin is held to."""
    rows = [(promise.id, promise.since, words) for promise, words in promises_of(TransportContract)]
    return table(("Rule", "Since", "Promise"), rows)


def extras(_: str) -> str:
    """Return a table of the extras of the core: those of a transport, and others, each with what it brings."""
    project = tomllib.loads((ROOT / "core" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    brings = {
        name: ", ".join(f"`{Requirement(line).name}`" for line in lines if not line.startswith("postbus["))
        for name, lines in sorted(project["optional-dependencies"].items())
    }
    return table(("Extra", "Brings"), [(f"`postbus[{name}]`", brought) for name, brought in brings.items()])


def wire(_: str) -> str:
    """Return a table of the stamps that have a form on the wire, those of plugins too."""
    for plugin in installed_plugins().loaded:
        with suppress(ModuleNotFoundError):
            import_module(f"{plugin.distribution.replace('-', '_')}.stamps")
    rows: list[tuple[str, ...]] = []
    for kind in sorted(stamps.travelling.values(), key=lambda kind: (kind.__module__.split("."), kind.wire_name)):
        fields = ", ".join(
            f"`{one.encode_name}`{'' if one.required else ' (may be missing)'}" for one in msgspec.structs.fields(kind)
        )
        means = " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
        rows.append((f"`{kind.wire_name}`", f"`{kind.__module__.partition('.')[0]}`", fields, means))
    return table(("Name", "Of", "Fields", "Means"), rows)


def rst(directive: str) -> str:
    """Return a directive of reStructuredText as MyST takes it."""
    return f"```{{eval-rst}}\n{directive}\n```"


MAKERS: dict[str, Callable[[str], str]] = {
    function.__name__: function
    for function in (guarantees, options, commands, api, classes, functions, extras, findings, rules, wire)
}


def setup(app: Sphinx) -> None:
    """Fill each page as it is read."""
    app.connect("source-read", fill)
