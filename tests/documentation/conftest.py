import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:  # The tests import what makes the tables by its name.
    sys.path.append(ROOT)
