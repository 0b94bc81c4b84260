"""Fills in the tables of the plugins' READMEs: ``python -m tests.documentation.tables``.

They show what each plugin registers. A README marks the places; everything outside of them is left as it is::

    <!-- options: redis, rediss -->
    <!-- end -->

    <!-- guarantees: redis, rediss -->
    <!-- end -->
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

from postbus.cli.markdown import guarantees_table, options_table
from postbus.plugins import GROUP, Plugins, Scheme

PLUGINS = sorted(path.parent for path in Path(__file__).parents[2].glob("plugins/*/pyproject.toml"))

BLOCK = re.compile(r"<!-- (options|guarantees): ([^\n]*) -->\n(.*?)<!-- end -->", re.DOTALL)


def schemes_of(folder: Path) -> dict[str, Scheme]:
    """Return what the plugin in a folder registers, by its schemes."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project.get("entry-points", {}).get(GROUP, {})
    plugins = Plugins(EntryPoint(name, value, GROUP) for name, value in declared.items())
    if plugins.problems:
        raise ValueError("; ".join(map(str, plugins.problems)))
    return plugins.schemes


def named_in(text: str, kind: str) -> set[str]:
    """Return the schemes that the README's blocks of a kind are about."""
    return {name for found, names, _ in BLOCK.findall(text) if found == kind for name in names.split(", ")}


def filled(text: str, schemes: Mapping[str, Scheme]) -> str:
    """Return a README with its tables made anew."""

    def fill(block: re.Match[str]) -> str:
        kind, names, inside = block.groups()
        if "<!-- " in inside:
            raise ValueError(f"Block '{kind}: {names}' has no end. Close it with <!-- end -->.")
        for name in names.split(", "):
            if name not in schemes:
                raise ValueError(f"Block '{kind}: {names}' names {name!r}. The plugin registers {', '.join(schemes)}.")
        make = options_table if kind == "options" else guarantees_table
        return f"<!-- {kind}: {names} -->\n\n{make([schemes[name] for name in names.split(', ')])}\n\n<!-- end -->"

    return BLOCK.sub(fill, text)


def main(names: Sequence[str]) -> None:
    """Rewrite the READMEs of the plugins in the folders of these names, by default of all."""
    for folder in PLUGINS:
        if names and folder.name not in names:
            continue
        readme = folder / "README.md"
        before = readme.read_text(encoding="utf-8")
        after = filled(before, schemes_of(folder))
        readme.write_text(after, encoding="utf-8")
        print(f"plugins/{folder.name}/README.md: {'as it was' if after == before else 'written anew'}")


if __name__ == "__main__":
    main(sys.argv[1:])
