"""``python -m postbus`` is ``postbus``."""

from postbus.cli import main

main(prog_name="postbus")
