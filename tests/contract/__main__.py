"""Prints which mutant proves which rule: ``python -m tests.contract``. Exits with 1 if one does not."""

from __future__ import annotations

import sys
from collections import Counter

from rich.console import Console
from rich.table import Table

from tests.contract import proof
from tests.contract.healthy import HEALTHY
from tests.contract.mutants import MUTANTS


def main() -> int:
    """Judge every transport, and print what came out."""
    verdicts = {name: future.result() for name, future in proof.prove(proof.CONNECTIONS).items()}
    proven: set[str] = set()

    table = Table("rule", "mutant", "caught", "fail with it")
    for group in proof.groups():
        table.add_section()
        for rule in proof.rules(group):
            for name, mutant in MUTANTS.items():
                if mutant.rule != rule:
                    continue
                caught = mutant.is_caught_by(proof.failed(verdicts[name]))
                proven |= {name} if caught else set()
                others = sorted(map(_words, proof.failed(verdicts[name]) - {rule}))
                shown = ", ".join(others) if len(others) < 3 else f"{len(others)} others"
                table.add_row(_words(rule), name, "yes" if caught else "NO", shown)

    Console(width=180).print(table)
    for connection in HEALTHY:
        outcomes = Counter(verdicts[connection.__name__].values())
        print(f"{connection.__name__}: {', '.join(f'{number} {outcome}' for outcome, number in outcomes.items())}")
    bare = set(proof.rules()) - {MUTANTS[name].rule for name in proven}
    print(f"{len(proof.rules())} rules, {len(MUTANTS)} mutants, {len(proven)} caught, {len(bare)} rules not proven.")
    return 1 if bare or len(proven) < len(MUTANTS) else 0


def _words(rule: str) -> str:
    return rule.removeprefix("test_").replace("_", " ")


if __name__ == "__main__":
    sys.exit(main())
