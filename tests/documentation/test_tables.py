"""The README of each plugin says what the plugin registers."""

from typing import Literal

import pytest
from msgspec.structs import replace

from postbus.cli.markdown import meanings
from postbus.dsn import Options, option
from postbus.plugins import Plugin, Scheme
from postbus.transport import Guarantees
from tests.documentation.tables import PLUGINS, filled, named_in, schemes_of

ANY_PLUGIN = pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)


class TwoOptions(Options):
    prefetch: int = option(10, "How many.", minimum=1, symfony="prefetch_count")
    mode: Literal["a", "b"] = option("a", "One | the other.", aliases=("way",))
    password: str | None = option("hidden", "Who.")
    read_timeout: float | None = option(None, "For PHP.", no_effect=True)


class OneOption(Options):
    prefetch: int = option(10, "How many.", minimum=1, symfony="prefetch_count")


PROMISE = Guarantees(durable=True, longest_delay=900.0)


def scheme(name, options=TwoOptions, guarantees=PROMISE):
    return Scheme(name, Plugin("plugin", "postbus-plugin", "1"), lambda dsn, context: None, options, guarantees)


def table(kind, *schemes):
    names = ", ".join(each.name for each in schemes)
    return filled(f"before\n<!-- {kind}: {names} -->\nold\n<!-- end -->\nafter", {each.name: each for each in schemes})


@ANY_PLUGIN
def test_a_readme_is_up_to_date(folder):
    """The tables are those that `./run tables` would write."""
    readme = (folder / "README.md").read_text(encoding="utf-8")

    assert readme == filled(readme, schemes_of(folder)), f"Run ./run tables -- {folder.name}"


@ANY_PLUGIN
def test_a_readme_has_the_tables_of_every_scheme(folder):
    """Whoever uses a scheme finds its options and its guarantees."""
    readme = (folder / "README.md").read_text(encoding="utf-8")
    schemes = set(schemes_of(folder))

    assert schemes == named_in(readme, "options")
    assert schemes == named_in(readme, "guarantees")


@ANY_PLUGIN
def test_a_readme_of_a_transport_has_its_sections(folder):
    """Whoever looks for the DSN, the options or the guarantees finds a heading."""
    lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()

    if schemes_of(folder):
        assert {"## DSN", "## Options", "## Guarantees"} <= set(lines)


def test_every_guarantee_is_explained():
    """A new field of `Guarantees` comes with a docstring, or with a word here."""
    assert list(Guarantees.__struct_fields__) == list(meanings())
    assert [] == [name for name, meaning in meanings().items() if not meaning]


def test_a_table_of_options_says_all_of_an_option():
    """Name, type, limits, default, meaning and other names are there; a secret default is not."""
    shown = table("options", scheme("one"))

    assert "| `prefetch` | int, at least 1 | `10` | How many. Symfony's name: `prefetch_count`. |" in shown
    assert "| `mode` | `a`, `b` | `a` | One \\| the other. Also: `way`. |" in shown
    assert "| `password` | str | `***` | Who. |" in shown
    assert "without effect here: `read_timeout`." in shown
    assert shown.startswith("before\n")
    assert shown.endswith("\nafter")
    assert "old" not in shown


def test_an_option_of_some_schemes_says_of_which():
    """Schemes may share a table, and one of them may take more than the other."""
    shown = table("options", scheme("one"), scheme("two", OneOption))

    assert "How many. Symfony's name: `prefetch_count`. |" in shown
    assert "One \\| the other. Also: `way`. Only for `one`. |" in shown


def test_a_table_of_guarantees_has_a_column_for_each_promise():
    """Schemes that promise the same share a column."""
    other = replace(PROMISE, durable=False, delay=False, longest_delay=None)

    alike = table("guarantees", scheme("one"), scheme("two"))
    different = table("guarantees", scheme("one"), scheme("two", guarantees=other))

    assert "| Durable | yes | A stored message survives a restart of the broker. |" in alike
    assert "| Guarantee | `one://` | `two://` | Meaning |" in different
    assert "| Longest delay | 900 seconds |  | How long a delay may be, in seconds; None for no limit. |" in different


def test_a_block_about_nobody_is_an_error():
    """A scheme that the plugin does not register is named."""
    with pytest.raises(ValueError, match="'too'. The plugin registers two"):
        filled("<!-- options: too -->\n<!-- end -->", {"two": scheme("two")})


def test_a_block_without_an_end_is_an_error():
    """What stands between two blocks is never overwritten."""
    with pytest.raises(ValueError, match="'options: one' has no end"):
        filled("<!-- options: one -->\n## Text\n<!-- guarantees: one -->\n<!-- end -->", {"one": scheme("one")})
