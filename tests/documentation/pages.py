"""What the pages of the documentation show, typed as it stands into an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def write_files(folder, *pages):
    """Write each block that begins with the name of its file."""
    for page in pages:
        text = (DOCS / page).read_text(encoding="utf-8")
        for name, content in re.findall(r"^```\w+\n# ([\w/]+\.\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8")


def run_python(folder, *arguments, **environment):
    """Run Python there, configured by nothing from outside but what is given, and return what it prints."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("POSTBUS_", "PYTEST"))}
    told = {"cwd": folder, "env": own | environment, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run([sys.executable, *arguments], **told)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
