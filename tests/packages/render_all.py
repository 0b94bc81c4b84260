"""Render the template for authors of plugins with every combination of answers, and look at what comes of each.

Run where copier is installed, as ``python render_all.py TEMPLATE FOLDER``.
"""

import itertools
import sys
import tomllib
from pathlib import Path

from copier import run_copy

ANSWERS = {
    "name": ("Carrier", "Great Carrier 2"),
    "scheme": (None, "gc-2"),
    "client": ("", "greenstalk>=2,<3", "nats-py[nkeys]"),
    "license": ("MIT", "Apache-2.0", "BSD-3-Clause"),
}
"""What may be answered to each question; None takes what is proposed."""


def main(template: str, folder: Path) -> None:
    """Render each into a folder of its own."""
    for number, combination in enumerate(itertools.product(*ANSWERS.values())):
        answers = {name: answer for name, answer in zip(ANSWERS, combination, strict=True) if answer is not None}
        rendered = folder / str(number)
        run_copy(template, rendered, {"author": "Ada Lovelace", **answers}, defaults=True, quiet=True)
        check(rendered, answers)
    print(f"Rendered with {number + 1} combinations of answers.")


def check(rendered: Path, answers: dict[str, str]) -> None:
    """See that the answers are where they belong."""
    project = tomllib.loads((rendered / "pyproject.toml").read_text())["project"]
    scheme = answers.get("scheme", answers["name"].lower().replace(" ", "-"))
    module = f"postbus_{scheme.replace('-', '_')}"
    assert project["name"] == f"postbus-{scheme}", project
    assert project["license"] == answers["license"], project
    assert project["entry-points"] == {"postbus": {scheme: module}}, project
    assert project["dependencies"] == [*filter(None, [answers["client"]]), "postbus>=0.1"], project
    assert (rendered / "src" / module / "py.typed").exists(), project
    assert (rendered / "LICENSE").stat().st_size > 500, project


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
