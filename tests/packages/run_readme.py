"""Type the whole README, as it stands, into an empty folder: its files, and its commands, in their order.

Run where nothing is installed but the wheels of `postbus` and `postbus-sql`, as `python -I run_readme.py`. What needs
a copy of this project, to install it or to work on it, is left out, since that has happened.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"

BEFORE = ("./run", "python3 -m venv", "pip install")
"""How commands begin that install this, or work on it."""

READY = "Ctrl+C or SIGTERM stops it"
"""What a worker says when it has begun."""


def steps() -> Iterator[tuple[str, str]]:
    """Yield each file with its text, and "sh" with each command. A file is the one named last before its text."""
    text = README.read_text(encoding="utf-8")
    for block in re.finditer(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        language, content = block.groups()
        if language == "sh":
            yield from (("sh", line) for line in content.splitlines() if not line.startswith(BEFORE))
            continue
        suffix = {"python": "py"}.get(language, language)
        [*_, name] = re.findall(rf"`(\w+\.{suffix})`", text[: block.start()].replace("pyproject.toml", ""))
        yield name, content


def work(command: str, folder: str, environment: dict[str, str]) -> str:
    """Let a worker begin, and handle what there is; press Ctrl+C, and return what its handlers printed."""
    count = ["postbus", "stats", "orders", "--format", "json"]
    with subprocess.Popen(
        ["sh", "-c", f"exec {command}"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stderr is not None
        said = []
        for line in worker.stderr:
            said.append(line)
            if line.startswith(READY):
                break
        while worker.poll() is None:
            counts = subprocess.run(count, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            if not re.search(r'"(waiting|in_flight)": [1-9]', counts.stdout):
                break
        worker.send_signal(signal.SIGINT)
        printed, rest = worker.communicate(timeout=60)
    assert worker.returncode == 0, "".join([*said, rest])
    assert "WARNING" not in "".join([*said, rest]), "".join([*said, rest])
    return printed


def main() -> None:
    """Do what the README says; the message is handled twice: at once, and by the worker."""
    installed_here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        own = {name: value for name, value in os.environ.items() if not name.startswith("POSTBUS_")}
        environment = own | {"PATH": installed_here, "POSTBUS_STATE_DIR": folder}
        printed = ""
        _, terminal = os.openpty()  # Some commands ask, and there is somebody.
        for name, text in steps():
            print(f"$ {text}" if name == "sh" else f"{name}:\n{text}", flush=True)
            if name != "sh":
                Path(folder, name).write_text(text, encoding="utf-8")
            elif text.startswith("postbus consume"):
                printed += work(text.partition("#")[0], folder, environment)
            else:
                printed += subprocess.run(
                    ["sh", "-eu", "-c", text],
                    cwd=folder,
                    env=environment,
                    stdin=terminal,
                    stdout=subprocess.PIPE,
                    text=True,
                    timeout=60,
                    check=True,
                ).stdout
    print(printed, end="")
    assert printed.count("Receipt for order 13") == 2, "The README promises two receipts."


if __name__ == "__main__":
    main()
