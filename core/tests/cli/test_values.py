"""How durations, sizes and times are read from arguments, and shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest

from postbus.cli.options import duration, moment, size
from postbus.cli.output import age, print_table
from postbus.display import printable


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("90s", 90),
        ("5m", 300),
        ("1h", 3600),
        ("1h30m", 5400),
        ("2d", 172800),
        ("250ms", 0.25),
    ],
)
def test_a_duration(text: str, seconds: float) -> None:
    """A duration is a number of seconds, or numbers with units."""
    assert seconds == duration(text)


@pytest.mark.parametrize("text", ["", "m", "5x", "-1", "1h30", "1e3", "nan"])
def test_no_duration(text: str) -> None:
    """Anything else is refused, with examples."""
    with pytest.raises(click.BadParameter, match="is no duration. Write seconds"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("512", 512), ("1k", 1024), ("128M", 2**27), ("1.5G", 3 * 2**29), ("1GiB", 2**30), ("2 mb", 2**21)],
)
def test_a_size(text: str, number: int) -> None:
    """A size is a number of bytes, or one with a suffix, by powers of 1024."""
    assert number == size(text)


@pytest.mark.parametrize("text", ["", "M", "12x", "-1M"])
def test_no_size(text: str) -> None:
    """Anything else is refused, with examples."""
    with pytest.raises(click.BadParameter, match="is no size"):
        size(text)


def test_a_moment_with_an_offset() -> None:
    """A time with an offset is that time."""
    assert datetime(2026, 11, 22, 8, 30, tzinfo=UTC) == moment("2026-11-22T10:30+02:00")


def test_a_local_moment() -> None:
    """A date without an offset is local midnight."""
    assert datetime(2026, 11, 22).astimezone() == moment("2026-11-22")


def test_a_moment_ago() -> None:
    """A duration is so long ago."""
    before = datetime.now(UTC)
    assert before <= moment("2h") + timedelta(hours=2) <= datetime.now(UTC)


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "99999999d"])
def test_no_moment(text: str) -> None:
    """Anything else is refused, with examples."""
    with pytest.raises(click.BadParameter, match="is no time"):
        moment(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, None), (-1, "0s"), (0.44, "0.4s"), (3, "3s"), (200, "3m 20s"), (3600, "1h"), (90061, "1d 1h")],
)
def test_an_age(seconds: float | None, text: str | None) -> None:
    """An age is shown by its two largest units."""
    assert text == age(seconds)


def test_what_would_steer_the_terminal_is_written_out() -> None:
    """Control characters in a message or an error do not reach the terminal."""
    assert "red\\x1b[31m\\r\nend" == printable("red\x1b[31m\r\nend")


def test_a_table_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody watches, a table is plain columns, a row a line, with numbers to the right."""
    print_table(("Name", "Count"), [("a", 5), ("long\nname", 1234), ("c", None)], right=("Count",))

    assert ["NAME       COUNT", "a              5", "long name   1234", "c"] == capsys.readouterr().out.splitlines()
