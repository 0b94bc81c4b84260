"""The README's whole text works, typed as it stands into an empty folder."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_readme_typed_into_an_empty_folder():
    """Each file and each command, in their order; a worker is stopped as somebody would, with Ctrl+C."""
    program = Path(__file__).parents[1] / "packages" / "run_readme.py"
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=110)

    assert done.returncode == 0, done.stdout + done.stderr
