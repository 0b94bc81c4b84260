"""Where the class of a message of an unknown type may be, for whoever is told that it is unknown.

The name is whoever's wrote it, so nothing is imported for it, and no module's own code is asked. It is compared to what
has been imported already, and to what the current folder, and the packages of the messages that are known, list.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

LONGEST_PATH = 20
"""Names; a longer path is nobody's class."""


def whereabouts_of(name: str, known: Iterable[type]) -> str:
    """Return what may have to be done before a name is known, as the end of a sentence; "" where nobody can tell."""
    path = name.split(".")
    if not 1 < len(path) <= LONGEST_PATH:
        return ""
    if _is_imported(path):
        return "; its class has been imported, so add a handler for it, or @app.message"
    packages = {type.__module__.partition(".")[0] for type in known}
    module = _module_listed(path, packages)
    if module is not None and module not in sys.modules:
        return f"; its module {module!r} has not been imported: list it in handlers, or import it where the app is made"
    return f"; if its class was renamed, write @app.message(aliases=[{name!r}]) above it" if path[0] in packages else ""


def _is_imported(path: Sequence[str]) -> bool:
    for end in range(len(path) - 1, 0, -1):
        found: object = sys.modules.get(".".join(path[:end]))
        for name in path[end:]:
            # `getattr` might call code of a module's, which imports something.
            found = vars(found).get(name) if isinstance(found, ModuleType | type) else None
        if isinstance(found, type):
            return True
    return False


def _module_listed(path: Sequence[str], packages: Iterable[str]) -> str | None:
    """Return the longest beginning of a path that is a module in the current folder, or in one of these packages."""
    from pkgutil import iter_modules  # noqa: PLC0415  For a message of an unknown type only.

    parts: list[str] = []
    folders = [os.getcwd()]
    package = sys.modules.get(path[0])
    if package is not None and path[0] in packages:
        parts, folders = [path[0]], list(vars(package).get("__path__", ()))
    for name in path[len(parts) : -1]:
        finders: dict[str, Any] = {module.name: module.module_finder for module in iter_modules(folders)}
        if name not in finders:
            break
        parts.append(name)
        folders = [os.path.join(finders[name].path, name)]
    return ".".join(parts) or None
