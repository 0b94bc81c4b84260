"""Has plugins certified, and writes their levels into their READMEs: ``python -m tests.documentation.levels redis``.

A README marks the place; everything outside of it is left as it is::

    <!-- level -->
    <!-- end -->
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence

import msgspec

from postbus.testing.certifying import LEVELS, Certificate
from tests.documentation.tables import PLUGINS

BLOCK = re.compile(r"<!-- level -->\n(.*?)<!-- end -->", re.DOTALL)
LINE = re.compile(rf"Level: \*\*({'|'.join(LEVELS)})\*\*")


def filled(text: str, certificate: Certificate) -> str:
    """Return a README with what a certificate says."""
    rows = "\n".join(
        f"| {proof.level} | {proof.what} | {proof.by} |".replace("\n", " ")
        for proof in sorted(certificate.proofs, key=lambda proof: LEVELS.index(proof.level))
        if proof.is_proven
    )
    table = f"| Level | Asks for | Proven by |\n|---|---|---|\n{rows}"
    said = (
        f"Level: **{certificate.level}**, of what [`postbus certify`](../../docs/plugins.md#how-good-it-is) asks for."
    )
    return BLOCK.sub(lambda _: f"<!-- level -->\n\n{said}\n\n{table}\n\n<!-- end -->", text)


def main(names: Sequence[str]) -> None:
    """Certify the plugins in the folders of these names, by default all that have a level."""
    for folder in PLUGINS:
        readme = folder / "README.md"
        before = readme.read_text(encoding="utf-8")
        if (names and folder.name not in names) or not BLOCK.search(before):
            continue
        command = [sys.executable, "-m", "postbus", "certify", str(folder), "--at-least", "bronze"]
        done = subprocess.run([*command, "--format", "json"], stdout=subprocess.PIPE, check=False)
        certificate = msgspec.json.decode(done.stdout, type=Certificate)
        readme.write_text(filled(before, certificate), encoding="utf-8")
        print(f"{certificate.package}: {certificate.level}")


if __name__ == "__main__":
    main(sys.argv[1:])
