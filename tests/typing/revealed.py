"""Compare what `reveal_type(x)  # int` says in a file with what mypy and pyright reveal there.

`assert_type` is the better check of a value. This one is for what it cannot spell: the signature that a
decorator leaves to a function.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

Revealed = dict[int, str]


def expected(file: str) -> Revealed:
    """Return, by line, the type in the comment behind each `reveal_type`."""
    lines = enumerate(Path(file).read_text(encoding="utf-8").splitlines(), start=1)
    return {number: line.partition("  # ")[2] for number, line in lines if line.lstrip().startswith("reveal_type(")}


def revealed_by_mypy(file: str) -> Revealed:
    """Return, by line, what mypy reveals."""
    output = subprocess.run(["mypy", "--no-pretty", file], capture_output=True, text=True).stdout
    notes = re.findall(r':(\d+): note: Revealed type is "(.*)"', output)
    return {int(line): plain(revealed) for line, revealed in notes}


def revealed_by_pyright(file: str) -> Revealed:
    """Return, by line, what pyright reveals."""
    output = subprocess.run(["pyright", "--outputjson", file], capture_output=True, text=True).stdout
    notes = json.loads(output)["generalDiagnostics"]
    return {
        note["range"]["start"]["line"] + 1: plain(match[1])
        for note in notes
        if (match := re.match(r'Type of ".*" is "(.*)"', note["message"]))
    }


def plain(revealed: str) -> str:
    """Return a type as both checkers could have written it: `(x: int) -> str`, without the modules of names."""
    unqualified = re.sub(r"\b(?:\w+\.)+(?=\w)", "", revealed)
    return unqualified.removeprefix("def ").replace("?", "").replace("CoroutineType[", "Coroutine[")


def main(file: str) -> int:
    """Print each difference, and return how many there are."""
    wanted = expected(file)
    differences = [
        f"{file}:{line}: {checker} reveals {found.get(line)!r}, not {type_!r}"
        for checker, found in {"mypy": revealed_by_mypy(file), "pyright": revealed_by_pyright(file)}.items()
        for line, type_ in wanted.items()
        if found.get(line) != type_
    ]
    print(*differences, f"{len(wanted)} revealed types, {len(differences)} differences", sep="\n")
    return len(differences)


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1])))
