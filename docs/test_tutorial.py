"""The tutorial, typed word by word into an empty folder, shows what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

TUTORIAL = Path(__file__).parent / "tutorial.md"

BEFORE = ("mkdir ", "python3 -m venv", ". .venv/", "pip install", "(cd ../postbus", "export PIP_", "docker run")
"""How lines begin that install what is installed here, or start a broker that runs."""


class Reader:
    """Does what a page says, in its order; of each output, every line is looked for in what the last commands said."""

    def __init__(self, folder, dsn):
        own = {name: value for name, value in os.environ.items() if not name.startswith(("POSTBUS_", "PYTEST"))}
        installed_here = f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}"
        self.environment = own | {"PATH": installed_here, "POSTBUS_STATE_DIR": str(folder)}
        self.folder = folder
        self.dsn = dsn
        self.said = ""
        self.outputs = 0

    def follow(self, text):
        for language, content in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            if language == "sh":
                self.said = "".join(map(self.type, content.splitlines()))
            elif language == "text":
                self.compare(content)
            else:
                name, _, _ = content.removeprefix("# ").partition("\n")
                (self.folder / name).write_text(content, encoding="utf-8")

    def type(self, line):
        if line.startswith(BEFORE):
            return ""
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            self.environment[name] = value.replace("redis://localhost:6379/orders", self.dsn)
            return ""
        command = ["sh", "-eu", "-c", f"{line} 2>&1"]
        told = {"cwd": self.folder, "env": self.environment, "capture_output": True, "text": True, "timeout": 60}
        done = subprocess.run(command, **told)
        assert done.returncode == 0, f"{line}\n{done.stdout}"
        return done.stdout

    def compare(self, content):
        expected = ".*\n.*".join(re.escape(line).replace("…", ".*") for line in content.splitlines() if line != "…")
        assert re.search(expected, self.said, re.DOTALL), f"Expected:\n{content}\nSaid:\n{self.said}"
        self.outputs += 1


def test_the_tutorial(tmp_path, redis_plain):
    """From the first message to the commands that run in production; the broker is the test's own."""
    text = TUTORIAL.read_text(encoding="utf-8")
    reader = Reader(tmp_path, f"{redis_plain.dsn}/the-tutorial")

    reader.follow(text)

    assert text.count("```text") == reader.outputs
    assert '"waiting": 0' in reader.said
