"""The command line: measure some groups, or all, and print their tables."""

from __future__ import annotations

import argparse
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks import against, groups, machine, report
from benchmarks.groups import Prepared
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
    parser.add_argument("--only", default="", metavar="TEXT", help="only figures that have this in their name")
    parser.add_argument(
        "--against",
        metavar="PYTHON",
        help="beside each figure, the same with the Postbus that this Python has; nox takes a revision in its place",
    )
    arguments = parser.parse_args()
    unknown = [name for name in arguments.groups if name not in known]
    if unknown:
        parser.error(f"there is no group {unknown[0]!r}; there are {', '.join(known)}")
    if arguments.repeat < 1:
        parser.error("--repeat must be 1 or more")

    # What it configures would be measured in place of what a group asks for.
    os.environ.pop("POSTBUS_TRANSPORT_DSN", None)

    console = report.make_console()
    ours, beside = ("now", "then") if arguments.against else ("ours", "raw")
    facts = machine.description() | {
        "Rounds": f"{arguments.repeat}, in turns ({ours}, {beside}, {ours}, {beside} …); medians"
    }
    if arguments.against:
        facts["Then"] = arguments.against
    report.print_facts(console, facts)

    measured: dict[str, tuple[Mapping[str, str], list[Result]]] = {}
    for name in arguments.groups or [name for name in known if name not in groups.OPTIONAL]:
        group = groups.load(name)
        console.print()
        try:
            with _prepared(name, arguments) as (conditions, figures), console.status("") as status:
                results: list[Result] = []
                for figure in figures:
                    status.update(f"{name}: {figure.name}")
                    results.append(measure(figure, arguments.repeat))
        except Unavailable as reason:
            console.print(f"Leaving out {name}: {reason}.")
            continue
        beside = "then" if arguments.against else group.beside
        report.print_table(console, group.title, ours, beside, results)
        report.print_facts(console, conditions)
        measured[name] = conditions, results
    if arguments.json is not None:
        report.write_json(arguments.json, facts, measured)


@contextmanager
def _prepared(group: str, arguments: argparse.Namespace) -> Generator[Prepared]:
    """Give the figures that were asked for, beside what they are compared with."""
    if arguments.against:
        with against.figures(arguments.against, group, arguments.only) as figures:
            yield {}, figures
        return
    with groups.load(group).figures() as (conditions, figures):
        yield conditions, against.matching(figures, arguments.only)


if __name__ == "__main__":
    main()
