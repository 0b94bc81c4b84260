"""Install a release from an index, as a user would, and use it: ``python -m tests.packages.rehearse FOLDER``.

The index is of the files in the folder, beside the one that pip asks by itself. A fresh environment gets
``postbus[redis]``, and one process dispatches to a Redis what another one handles; then pip is asked whether all extras
can be had together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from tests.brokers.broker import Brokers, find_variants
from tests.packages import index

SHOP = Path(__file__).parent / "rendered" / "shop.py"

TELLING = ("PYTHON", "POSTBUS_", "PIP_REQUIRE", "PIP_CONSTRAINT", "PIP_FIND_LINKS")
"""How variables begin that would tell a user's programs of this repository."""


def run(*command: str | Path, folder: Path, **variables: str) -> str:
    """Run a command as in a new shell, and return what it prints."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(TELLING)}
    done = subprocess.run(command, cwd=folder, env=own | variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def install(requirement: str, address: str, folder: Path, *options: str) -> dict[str, str]:
    """Let pip install something; return what came, and from where; ours must come from that address."""
    report = folder / "report.json"
    told = ("--disable-pip-version-check", "--no-cache-dir", "--extra-index-url", address, "--report", str(report))
    run(folder / "venv/bin/python", "-m", "pip", "install", *told, *options, requirement, folder=folder)
    installed = json.loads(report.read_text(encoding="utf-8"))["install"]
    came = {one["metadata"]["name"]: str(one["download_info"]["url"]) for one in installed}
    ours = {name: url for name, url in came.items() if name.startswith("postbus")}
    assert all(url.startswith(address.removesuffix("simple/")) for url in ours.values()), ours
    return came


def main(built: Path) -> None:
    """Do it, and say what was done."""
    find_variants()
    names = {path.name.partition("-")[0].replace("_", "-") for path in built.glob("*.whl")}
    with tempfile.TemporaryDirectory() as place, closing(Brokers()) as brokers, index.serve(built) as address:
        folder = Path(place)
        run(sys.executable, "-m", "venv", "venv", folder=folder)
        came = install("postbus[redis]", address, folder)
        assert {"postbus", "postbus-redis"} <= came.keys(), came
        print(f"Installed postbus[redis]: {', '.join(sorted(came))}.")

        (folder / SHOP.name).write_text(SHOP.read_text(encoding="utf-8"), encoding="utf-8")
        queue = {"ORDERS_DSN": f"{brokers['redis_plain'].dsn}/rehearsal"}
        run(folder / "venv/bin/python", SHOP.name, folder=folder, **queue)
        consume = ("--app", "shop:app", "consume", "orders", "--until-empty")
        seen = run(folder / "venv/bin/postbus", *consume, folder=folder, **queue)
        assert seen == "Order 13 is confirmed.\n", seen
        print("Dispatched an order, and had it handled by a worker.")

        together = install("postbus[all]", address, folder, "--dry-run", "--ignore-installed")
        assert names <= together.keys(), names - together.keys()
        print(f"All extras can be had together: {len(together)} distributions.")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
