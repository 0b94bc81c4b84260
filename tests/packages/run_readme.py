"""Run the example of the README as it stands there: its program, and the commands below it.

Run where nothing is installed but the wheels of `postbus` and `postbus-sql`, as `python -I run_readme.py`.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def example() -> tuple[str, str]:
    """Return the program of the README and the shell commands that use it, without those that install."""
    blocks = re.findall(r"^```(python|sh)\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    program = next(code for language, code in blocks if language == "python")
    commands = next(code for language, code in blocks if language == "sh" and "shop.py" in code)
    used = [line for line in commands.splitlines() if not line.startswith(("python3 -m venv", "pip install"))]
    return program, "\n".join(used).replace(" consume", " consume --limit 1")


def main() -> None:
    """Do what the README says, in an empty folder; the message is handled twice: at once, and by the worker."""
    program, commands = example()
    installed_here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "shop.py").write_text(program, encoding="utf-8")
        done = subprocess.run(
            ["sh", "-eux", "-c", commands],
            cwd=folder,
            env=os.environ | {"PATH": installed_here},
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
            check=True,
        )
    print(done.stdout, end="")
    assert done.stdout.count("Receipt for order 13") == 2, "The README promises two receipts."


if __name__ == "__main__":
    main()
