"""What docs/worker.md says of options and arguments is what there is."""

import inspect
import re
from pathlib import Path

from postbus import Limits, Postbus
from postbus.cli.consume import consume

PAGE = (Path(__file__).parents[2] / "docs" / "worker.md").read_text(encoding="utf-8")
ROWS = [
    row.strip("| ").split(" | ")
    for row in PAGE.partition("| Option | In code |")[2].partition("\n\n")[0].splitlines()[2:]
]


def test_the_table_has_each_option_of_consume():
    """Each is there once, by its long name."""
    options = [next(name for name in parameter.opts if name.startswith("--")) for parameter in consume.params[1:]]
    named = [name for option, _ in ROWS for name in re.findall(r"`(--[a-z-]+)`", option)]

    assert sorted(options) == sorted(named)


def test_the_table_has_each_argument_of_the_worker():
    """Each is there, and nothing else; so is each limit."""
    arguments = [
        name for name in inspect.signature(Postbus.worker).parameters if name not in ("self", "names", "limits")
    ]
    limits = [f"limits=Limits({name}=…)" for name in Limits.__struct_fields__]
    named = [name for _, argument in ROWS for name in re.findall(r"`([^`]+)`", argument)]

    assert sorted([*arguments, *limits]) == sorted(named)


def test_an_option_has_the_name_of_its_argument():
    """Where an option is an argument, it is called so, but for the plural of what is given repeatedly."""
    for option, argument in ROWS:
        name = re.match(r"`(\w+)`", argument)
        if name is not None:
            assert name[1] in (option.split("`")[1].strip("-").replace("-", "_"), "weights")
