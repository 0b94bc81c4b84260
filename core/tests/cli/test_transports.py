"""``postbus stats``, ``setup`` and ``purge``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Shop

BROKEN = """
    from postbus.errors import ConnectionLost, TransportError

    class Broken:
        name = "broken"
        def send(self, envelopes): raise ConnectionLost("Nobody listens.")
        def count(self): raise ConnectionLost("Nobody listens.")
        def setup(self): raise TransportError("Permission denied.")
        def missing(self): raise TransportError("Permission denied.")
        def close(self): pass

    app = Postbus(transports={"broken": Broken(), "orders": "in-memory://%s-orders"})
"""


SCRIPTED = """
    class Scripted:
        def __init__(self, name): self.name = name
        def send(self, envelopes): return envelopes
        def setup(self): raise RuntimeError("It was set up.")
        def missing(self): return ()
        def script(self): return "CREATE TABLE messages;"
        def close(self): pass

    app = Postbus(transports={"one": Scripted("one"), "two": Scripted("two"), "orders": "in-memory://%s-orders"})
"""


def test_stats_for_people(shop: Shop) -> None:
    """A row for each transport that can count; the others are named apart."""
    shop.dispatch(1, 2)
    lines = shop.run("stats").stdout.splitlines()

    assert ["TRANSPORT", "WAITING", "DELAYED", "IN", "FLIGHT", "OLDEST"] == lines[0].split()
    assert ["orders", "2", "0", "0"] == lines[1].split()[:4]
    assert "Cannot count: now." == lines[-1]


def test_stats_for_programs(shop: Shop) -> None:
    """The same as JSON, to stdout."""
    shop.dispatch(1, 2)
    found = shop.json("stats")

    assert {"orders", "mails", "failed"} == found["transports"].keys()
    assert {"waiting": 2, "delayed": 0, "in_flight": 0} == {
        key: found["transports"]["orders"][key] for key in ("waiting", "delayed", "in_flight")
    }
    assert ["now"] == found["uncountable"]


def test_stats_of_some(shop: Shop) -> None:
    """With names, only those."""
    assert ["mails"] == list(shop.json("stats", "mails")["transports"])


def test_stats_of_an_unknown_transport(shop: Shop) -> None:
    """An unknown name is a mistake, not an empty answer."""
    result = shop.run("stats", "mial", "--format", "json")

    assert 2 == result.exit_code
    assert "There is no transport 'mial'. Did you mean 'mails'?" in result.stderr


def test_stats_when_a_broker_is_away(shop: Shop) -> None:
    """A transport that cannot be asked hides none of the others; the exit code is 1."""
    shop.append(BROKEN % shop.id)
    result = shop.run("stats")

    assert 1 == result.exit_code
    assert "orders" in result.stdout
    assert "Error: broken: Nobody listens." in result.stderr


def test_setup_tells_about_each(shop: Shop) -> None:
    """A transport without anything to set up is told so; one that fails does not stop the rest."""
    shop.append(BROKEN % shop.id)
    result = shop.run("setup")

    assert 1 == result.exit_code
    assert ["broken: failed: Permission denied.", "orders: nothing to set up"] == result.stdout.splitlines()


def test_setup_of_one(shop: Shop) -> None:
    """With names, only those are set up."""
    assert [{"transport": "mails", "result": "nothing to set up"}] == shop.json("setup", "mails")


def test_what_setting_up_does_is_printed_and_not_done(shop: Shop) -> None:
    """Once for all transports that say the same, and nothing of those that cannot say it."""
    shop.append(SCRIPTED % shop.id)

    result = shop.run("setup", "--sql")

    assert (0, "CREATE TABLE messages;\n") == (result.exit_code, result.stdout)


def test_a_transport_that_cannot_say_how_it_is_set_up_says_so(shop: Shop) -> None:
    """If it was asked for by its name, nothing is left out in silence."""
    result = shop.run("setup", "orders", "--sql")

    assert 2 == result.exit_code
    assert "Transport 'orders' cannot say how it is set up. Run postbus setup orders." in result.stderr


def test_purge_deletes_everything(shop: Shop) -> None:
    """With ``--force``, all messages are deleted and counted."""
    shop.dispatch(1, 2)

    assert "orders: purged: 2 messages\n" == shop.run("purge", "orders", "--force").stdout
    assert 0 == shop.json("stats")["transports"]["orders"]["waiting"]


def test_purge_does_not_go_ahead_unasked(shop: Shop) -> None:
    """Where nobody can be asked, nothing is deleted without ``--force``."""
    shop.dispatch(1)
    result = shop.run("purge", "orders")

    assert 2 == result.exit_code
    assert "Add --force" in result.stderr
    assert 1 == shop.json("stats")["transports"]["orders"]["waiting"]


@pytest.mark.parametrize("names", [["orders", "now"], ["orders", "ordesr"], []])
def test_purge_checks_all_names_first(shop: Shop, names: list[str]) -> None:
    """One name that cannot be purged, and none is."""
    shop.dispatch(1)

    assert 2 == shop.run("purge", *names, "--force").exit_code
    assert 1 == shop.json("stats")["transports"]["orders"]["waiting"]
