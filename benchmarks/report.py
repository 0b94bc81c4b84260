"""What was measured, for people as tables and for programs as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.measuring import Result, Samples

NARROWEST = 120
"""Columns of a table that is written into a file."""


def make_console() -> Console:
    """Return where the tables are written."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, NARROWEST))


def print_facts(console: Console, facts: Mapping[str, str]) -> None:
    """Print what the figures depend on."""
    for name, value in facts.items():
        console.print(f"[dim]{name}:[/dim] {value}", soft_wrap=True)


def print_table(console: Console, title: str, ours: str, beside: str, results: Sequence[Result]) -> None:
    """Print the figures of a group: medians, with the lowest and the highest value below them."""
    table = Table(title=title, title_justify="left", title_style="bold", show_lines=True)
    table.add_column("figure")
    for heading in (ours, beside, "compared", "target", "reached"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        if result.problem is not None:
            table.add_row(f"{result.figure.name}\n[red]not measured:[/red] {escape(result.problem)}")
            continue
        table.add_row(
            result.figure.name,
            _show(result.ours, result.figure.unit),
            _show(result.raw, result.figure.unit) if result.raw is not None else "",
            _show_compared(result),
            _show_target(result),
            {True: "[green]yes[/green]", False: "[red]no[/red]", None: ""}[result.reached],
        )
    console.print(table)


def write_json(
    path: Path, facts: Mapping[str, str], groups: Mapping[str, tuple[Mapping[str, str], list[Result]]]
) -> None:
    """Write every single value that was measured."""
    document = {
        "facts": dict(facts),
        "groups": {
            name: {"conditions": dict(conditions), "figures": [_as_dict(result) for result in results]}
            for name, (conditions, results) in groups.items()
        },
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def _as_dict(result: Result) -> dict[str, Any]:
    figure = result.figure
    return {
        "name": figure.name,
        "unit": figure.unit,
        "comparison": figure.comparison,
        "ours": result.ours.values,
        "raw": result.raw.values if result.raw is not None else None,
        "compared": result.compared.median if result.problem is None else None,
        "problem": result.problem,
        "target": figure.target,
        "reached": result.reached,
    }


def _show(samples: Samples, unit: str) -> str:
    if unit == "/s":
        high, low = (_digits(1 / value) for value in samples.spread)
        return f"{_digits(1 / samples.median)}/s\n[dim]{low} … {high}[/dim]"
    factor, name = _scale(samples.median, unit)
    low, high = (_digits(value * factor) for value in samples.spread)
    return f"{_digits(samples.median * factor)} {name}\n[dim]{low} … {high}[/dim]"


def _show_compared(result: Result) -> str:
    compared = result.compared
    if result.raw is None or result.figure.comparison == "cost":
        return ""
    if result.figure.comparison == "difference":
        return "+" + _show(compared, result.figure.unit)
    low, high = compared.spread
    return f"{compared.median:.2f} ×\n[dim]{low:.2f} … {high:.2f}\nbest {result.best:.2f}[/dim]"


def _show_target(result: Result) -> str:
    target = result.figure.target
    if target is None:
        return ""
    if result.figure.comparison in ("ratio", "times"):
        return f"{'≥' if result.figure.comparison == 'ratio' else '≤'} {target:g} ×"
    factor, name = _scale(target, result.figure.unit)
    return f"≤ {target * factor:g} {name}"


def _digits(value: float) -> str:
    """Return a number with three digits that mean something."""
    return f"{float(f'{value:.3g}'):,.12g}".replace(",", " ")


def _scale(value: float, unit: str) -> tuple[float, str]:
    """Return by what to multiply a value, and the unit that it then has."""
    if unit == "%":
        return 100.0, "%"
    if unit == "B":
        return 1e-6, "MB"
    if not unit:
        return 1.0, ""
    for factor, name in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if abs(value) * factor >= 1:
            return factor, name
    return 1e9, "ns"
