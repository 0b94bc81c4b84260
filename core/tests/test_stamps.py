"""Stamps: frozen values, some of which travel under a registered name."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postbus import ConfigurationError, Stamp, stamps

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

TRAVELLING = {
    "bus": stamps.BusName,
    "id": stamps.MessageId,
    "correlation": stamps.Correlation,
    "causation": stamps.Causation,
    "handled": stamps.Handled,
    "retried": stamps.Retried,
    "error": stamps.ErrorDetails,
    "buried": stamps.Buried,
    "not-before": stamps.NotBefore,
    "key": stamps.Key,
    "deduplication": stamps.Deduplication,
}
STAYING = [
    stamps.Delay,
    stamps.TransportNames,
    stamps.Duplicate,
    stamps.HandlerArguments,
    stamps.AfterCurrent,
    stamps.Received,
    stamps.Sent,
    stamps.Result,
    stamps.Original,
    stamps.Encoded,
    stamps.UnknownHeaders,
]
VALUES = [
    stamps.Delay(1.5),
    stamps.TransportNames(("a", "b")),
    stamps.AfterCurrent(),
    stamps.BusName("main"),
    stamps.MessageId("1"),
    stamps.Correlation("1"),
    stamps.Causation("1"),
    stamps.Received("a", 7, "8", 2),
    stamps.Sent("a", "8"),
    stamps.Handled("h"),
    stamps.Result("h", 5),
    stamps.Retried(2, NOW),
    stamps.ErrorDetails("ValueError", "no", NOW),
    stamps.Buried("a"),
    stamps.NotBefore(NOW),
    stamps.Key("a"),
    stamps.Deduplication("a", 60.0),
    stamps.Duplicate("1"),
]

numbers = itertools.count()


@pytest.fixture
def free_name() -> str:
    """Return a name that no stamp has."""
    return f"tests.stamps.{next(numbers)}"


@pytest.mark.parametrize(("name", "type_"), TRAVELLING.items(), ids=str)
def test_the_core_stamps_travel_under_fixed_names(name: str, type_: type[Stamp]) -> None:
    """The wire names of the core's stamps are part of the format and do not change."""
    assert (name, type_) == (type_.wire_name, stamps.travelling.get(stamps.HEADER + name))


@pytest.mark.parametrize("type_", STAYING)
def test_stamps_about_this_process_have_no_wire_name(type_: type[Stamp]) -> None:
    """What only means something in this process does not travel."""
    assert type_.wire_name is None


def test_every_stamp_of_the_core_is_one_or_the_other() -> None:
    """No stamp of the core is missing from the two lists above."""
    defined = {thing for thing in vars(stamps).values() if isinstance(thing, type) and issubclass(thing, Stamp)}
    assert {*TRAVELLING.values(), *STAYING, Stamp} == defined


def test_an_unknown_name_is_no_stamp() -> None:
    """A wire name that this process does not know, a Python name among them, gives nothing."""
    assert [None] * 4 == [
        stamps.travelling.get(stamps.HEADER + name) for name in ("", "nobody", "received", "postbus.stamps.Received")
    ]


def test_a_stamp_of_the_users_own_travels_under_its_wire_name(free_name: str) -> None:
    """Declaring a wire name is all that it takes, and it is no field of the stamp."""

    class Tenant(Stamp):
        wire_name = free_name
        name: str

    assert Tenant is stamps.travelling.get(stamps.HEADER + free_name)
    assert ("name",) == Tenant.__struct_fields__
    assert free_name == Tenant("acme").wire_name


def test_two_stamps_of_one_name_are_refused(free_name: str) -> None:
    """The error names both classes and the name, and the first one keeps it."""
    first = type(Stamp)("First", (Stamp,), {"__module__": "one", "wire_name": free_name})
    with pytest.raises(TypeError) as caught:
        type(Stamp)("Second", (Stamp,), {"__module__": "two", "wire_name": free_name})
    assert f"Two stamps travel as {free_name!r}: one.First and two.Second. Give one of them another wire_name." == str(
        caught.value
    )
    assert first is stamps.travelling.get(stamps.HEADER + free_name)


def test_a_core_name_cannot_be_taken() -> None:
    """A stamp of the user's cannot stand in for one of the core's."""
    with pytest.raises(TypeError, match=r"postbus\.stamps\.MessageId and .*Mine"):

        class Mine(Stamp):
            wire_name = "id"

    assert stamps.MessageId is stamps.travelling.get(stamps.HEADER + "id")


def test_the_same_class_may_be_defined_again(free_name: str) -> None:
    """After a module was reloaded, its new class takes the name over from the old one."""
    old, new = (type(Stamp)("Tenant", (Stamp,), {"__module__": "reloaded", "wire_name": free_name}) for _ in range(2))
    assert old is not new
    assert new is stamps.travelling.get(stamps.HEADER + free_name)


@pytest.mark.slow
def test_a_started_program_may_be_imported_too(tmp_path: Path) -> None:
    """A program whose parts import it defines its stamps twice, once as __main__; that is one and the same class."""
    (tmp_path / "shop.py").write_text(
        "from postbus import Stamp\n"
        "class Tenant(Stamp):\n"
        "    wire_name = 'tenant'\n"
        "    name: str\n"
        "if __name__ == '__main__':\n"
        "    import shop\n"
    )
    finished = subprocess.run([sys.executable, tmp_path / "shop.py"], capture_output=True, text=True, check=False)
    assert (0, "") == (finished.returncode, finished.stderr)


def test_a_stamp_without_a_wire_name_of_its_own_stays(free_name: str) -> None:
    """A stamp derived from one that travels does not travel in its place: it would arrive as its parent."""
    parent = type(Stamp)("Parent", (Stamp,), {"__module__": "derived", "wire_name": free_name})
    child = type(Stamp)("Child", (parent,), {"__module__": "derived", "__annotations__": {"more": int}})
    assert parent is stamps.travelling.get(stamps.HEADER + free_name)
    assert child(1).wire_name is None


def test_an_annotated_wire_name_is_refused(free_name: str) -> None:
    """``wire_name: str = "tenant"`` would make it a field of the stamp, so it is an error that says so."""
    with pytest.raises(TypeError, match="wire_name"):
        type(Stamp)(
            "Annotated",
            (Stamp,),
            {"__module__": "annotated", "__annotations__": {"wire_name": str}, "wire_name": free_name},
        )


@given(at=st.datetimes(timezones=st.none() | st.timezones()), count=st.integers(), immediate=st.integers())
@example(at=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), count=-1, immediate=10**30)
@example(at=datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-12))), count=10**30, immediate=-1)
def test_what_anybody_may_write_can_be_calculated_with(at: datetime, count: int, immediate: int) -> None:
    """Counts have bounds, and times are in UTC: they can be compared, and written again."""
    retried = stamps.Retried(count, at, immediate)
    error = stamps.ErrorDetails("E", "no", at)
    assert 0 <= min(retried.count, retried.immediate) <= max(retried.count, retried.immediate) <= stamps.MOST_RETRIES
    assert retried.at == error.at.astimezone(UTC)
    assert retried == msgspec.json.decode(msgspec.json.encode(retried), type=stamps.Retried)


@pytest.mark.parametrize("stamp", VALUES, ids=lambda stamp: type(stamp).__name__)
def test_a_stamp_cannot_be_changed(stamp: Stamp) -> None:
    """Setting a field, or anything else, raises."""
    before = msgspec.structs.replace(stamp)
    for name in [*stamp.__struct_fields__, "wire_name", "new"]:
        with pytest.raises(AttributeError):
            setattr(stamp, name, "x")
    assert before == stamp


@pytest.mark.parametrize("stamp", VALUES, ids=lambda stamp: type(stamp).__name__)
def test_stamps_are_equal_by_value(stamp: Stamp) -> None:
    """A stamp equals its copy, has the same hash, and shows its fields in its repr."""
    copy = msgspec.structs.replace(stamp)
    assert stamp == copy
    assert hash(stamp) == hash(copy)
    assert repr(stamp).startswith(f"{type(stamp).__name__}(")
    assert all(f"{name}=" in repr(stamp) for name in stamp.__struct_fields__)


def test_stamps_of_different_types_are_not_equal() -> None:
    """The same fields in another type are another stamp."""
    assert stamps.MessageId("1") != stamps.Correlation("1")
    assert 2 == len({stamps.MessageId("1"), stamps.Correlation("1")})


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (0, 0.0),
        (5, 5.0),
        (0.25, 0.25),
        (timedelta(minutes=1.5), 90.0),
        (timedelta(0), 0.0),
        (timedelta(days=999), 86313600.0),
    ],
)
def test_a_delay_is_seconds_or_a_timedelta(given: float | timedelta, seconds: float) -> None:
    """Either way it holds seconds, as a float."""
    delay = stamps.Delay(given)
    assert (seconds, float) == (delay.seconds, type(delay.seconds))
    assert stamps.Delay(seconds) == delay


@pytest.mark.parametrize(
    "given",
    [
        -1,
        -0.001,
        math.nan,
        math.inf,
        -math.inf,
        pytest.param(10**400, id="huge"),
        timedelta(seconds=-1),
        None,
        "5",
        True,
        [5],
    ],
)
def test_what_no_delay_can_be_is_refused(given: Any) -> None:
    """One sentence says what was given, where it was."""
    with pytest.raises(ConfigurationError) as caught:
        stamps.Delay(given)
    expected = f"stamps.Delay must be given a number of seconds from 0 up, or a timedelta, got {given!r}."
    assert expected == str(caught.value)
