"""The command line: measure some groups, or all, and print their tables."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from benchmarks import groups, machine, report
from benchmarks.measuring import Result, Unavailable, measure


def main() -> None:
    """Run the program; however slow the figures are, it succeeds."""
    known = groups.names()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure, beside the raw equivalent.")
    parser.add_argument(
        "groups",
        nargs="*",
        metavar="GROUP",
        help=f"some of: {', '.join(known)} (default: all but {', '.join(groups.OPTIONAL)})",
    )
    parser.add_argument(
        "--repeat", type=int, default=7, metavar="N", help="rounds of each figure (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value that was measured into a file")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.groups if name not in known]
    if unknown:
        parser.error(f"there is no group {unknown[0]!r}; there are {', '.join(known)}")
    if arguments.repeat < 1:
        parser.error("--repeat must be 1 or more")

    # What it configures would be measured in place of what a group asks for.
    os.environ.pop("POSTBUS_TRANSPORT_DSN", None)

    console = report.make_console()
    facts = machine.description() | {"Rounds": f"{arguments.repeat}, in turns (ours, raw, ours, raw …); medians"}
    report.print_facts(console, facts)

    measured: dict[str, tuple[Mapping[str, str], list[Result]]] = {}
    for name in arguments.groups or [name for name in known if name not in groups.OPTIONAL]:
        group = groups.load(name)
        console.print()
        try:
            with group.figures() as (conditions, figures), console.status("") as status:
                results: list[Result] = []
                for figure in figures:
                    status.update(f"{name}: {figure.name}")
                    results.append(measure(figure, arguments.repeat))
        except Unavailable as reason:
            console.print(f"Leaving out {name}: {reason}.")
            continue
        report.print_table(console, group.title, group.beside, results)
        report.print_facts(console, conditions)
        measured[name] = conditions, results
    if arguments.json is not None:
        report.write_json(arguments.json, facts, measured)


if __name__ == "__main__":
    main()
