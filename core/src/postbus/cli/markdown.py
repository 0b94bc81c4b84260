"""What a plugin registers, as tables of Markdown: for a README, or a site."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Sequence
from typing import cast

from postbus.dsn import OptionInfo
from postbus.plugins import Scheme
from postbus.transport import Guarantees

UNITS = {"longest_delay": " seconds", "largest_message": " bytes", "longest_wait": " seconds"}


def options_table(schemes: Sequence[Scheme]) -> str:
    """Return a table of the options that these schemes take; one that not all of them take says who does."""
    takers: list[tuple[OptionInfo, list[str]]] = []
    for scheme in schemes:
        for info in scheme.options.describe() if scheme.options else []:
            alike = next((names for known, names in takers if known == info), None)
            if alike is None:
                takers.append((info, alike := []))
            alike.append(scheme.name)
    if len({info.name for info, _ in takers}) < len(takers):
        raise ValueError("These schemes have an option of one name and two meanings. Give each a block of its own.")

    rows: list[tuple[str, ...]] = []
    for info, names in takers:
        only = f" Only for {_code(names)}." if len(names) < len(schemes) else ""
        if not info.no_effect:
            rows.append((f"`{info.name}`", _type(info), _default(info), _meaning(info) + only))
    idle = [info.name for info, _ in takers if info.no_effect]
    parts = [table(("Option", "Type", "Default", "Meaning"), rows) if rows else "There are no options."]
    if idle:
        parts.append(f"Taken, so that a DSN of Symfony's can stay as it is, but without effect here: {_code(idle)}.")
    return "\n\n".join(parts)


def guarantees_table(schemes: Sequence[Scheme]) -> str:
    """Return a table of what these schemes guarantee, with a column for all that guarantee the same."""
    promises: dict[Guarantees, list[str]] = {}
    for scheme in schemes:
        promises.setdefault(scheme.guarantees, []).append(f"{scheme.name}://")
    headings = [_code(names) for names in promises.values()] if len(promises) > 1 else ["Promised"]
    rows = [
        (name.replace("_", " ").capitalize(), *(_promise(name, each) for each in promises), meaning)
        for name, meaning in meanings().items()
    ]
    return table(("Guarantee", *headings, "Meaning"), rows)


def meanings() -> dict[str, str]:
    """Return what each field of `Guarantees` means, in their order: its docstring."""
    [record] = ast.parse(inspect.getsource(Guarantees)).body
    assert isinstance(record, ast.ClassDef)
    told: dict[str, str] = {}
    name = ""
    for statement in record.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name)):
                told[name] = ""
            case ast.Expr(value=ast.Constant(value=str(docstring))) if name and not told[name]:
                told[name] = " ".join(docstring.split())
            case _:
                pass
    return told


def _type(info: OptionInfo) -> str:
    words = [_code(info.choices) if info.choices else info.type]
    words += [info.unit] if info.unit else []
    words += [f"at least {_number(info.minimum)}"] if info.minimum is not None else []
    words += [f"at most {_number(info.maximum)}"] if info.maximum is not None else []
    return ", ".join(words)


def _default(info: OptionInfo) -> str:
    default = info.default
    if default is None or default in ("", [], (), {}):
        return ""
    if info.secret:
        return "`***`"
    if isinstance(default, list | tuple):
        return _code(map(str, cast("Sequence[object]", default)))
    return f"`{str(default).lower() if isinstance(default, bool) else _number(default)}`"


def _meaning(info: OptionInfo) -> str:
    others = [f"Symfony's name: `{info.symfony}`."] if info.symfony else []
    others += [f"Also: {_code(info.aliases)}."] if info.aliases else []
    return " ".join([info.meaning, *others])


def _promise(name: str, guarantees: Guarantees) -> str:
    match getattr(guarantees, name):
        case _ if name == "longest_delay" and not guarantees.delay:
            return ""
        case bool(value):
            return "yes" if value else "no"
        case None:
            return "no limit"
        case "fifo":
            return "first in, first out"
        case value:
            return f"{_number(value)}{UNITS.get(name, '')}"


def _number(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown."""
    lines = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in (heading, *rows)]
    return "\n".join([f"| {lines[0]} |", "|---" * len(heading) + "|", *(f"| {line} |" for line in lines[1:])])
