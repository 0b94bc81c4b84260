"""``postbus debug``, ``plugins`` and ``check``, which look and change nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Shop

KINDS = """
    import attrs
    import msgspec
    import pydantic
    from typing import Protocol, runtime_checkable

    @runtime_checkable
    class Billed(Protocol):
        def bill(self): ...

    @attrs.frozen
    class Attrs:
        a: int
        def bill(self): ...

    class Struct(msgspec.Struct, frozen=True, kw_only=True):
        a: int

    class Model(pydantic.BaseModel):
        a: int

    class Picky(msgspec.Struct):
        a: int
        def __post_init__(self):
            raise ValueError("never")

    app = Postbus(
        transports={"a": "in-memory://", "b": "in-memory://", "c": "in-memory://"},
        routing={Billed: "a", Struct: "b", "shop.Modle": "c"},
    )
    for kind in (Attrs, Struct, Picky):
        app.message(kind)
    app.message("model", transport="c", key="a")(Model)
"""


def test_debug_shows_what_handles_what(shop: Shop) -> None:
    """Each bus has its middleware and its handlers, with their options."""
    found = shop.json("debug")

    [bus] = found["buses"]
    assert ["SendMessage", "HandleMessage"] == bus["middleware"][-2:]
    handlers = {handler["name"]: handler for handler in bus["handlers"]}
    assert ["shop.OrderPlaced"] == handlers["shop.send_receipt"]["handles"]
    assert (5, True) == (handlers["shop.note"]["priority"], handlers["shop.note"]["is_async"])
    assert (None, 30.0) == (handlers["shop.send_receipt"]["time_limit"], handlers["shop.note"]["time_limit"])
    assert {"order.placed": ["orders"], "shop.MailSent": ["mails"]} == {
        line["wire_name"]: line["sent_to"] for line in found["messages"]
    }


def test_debug_for_people(shop: Shop) -> None:
    """The same as tables."""
    output = shop.run("debug").stdout

    assert "Bus 'default', the default" in output
    assert "priority=5, async=True" in output
    assert ["order.placed", "shop.OrderPlaced", "orders"] in [line.split() for line in output.splitlines()]


def test_debug_of_one_bus(shop: Shop) -> None:
    """With a name, only that bus; an unknown one is a mistake."""
    assert "Routes" not in shop.run("debug", "default").stdout
    assert 2 == shop.run("debug", "commands").exit_code


def test_debug_knows_every_kind_of_message(shop: Shop) -> None:
    """Where a message goes is found for each kind of class, also by a protocol, and by what the class itself says."""
    shop.append(KINDS)
    found = shop.json("debug")

    assert {"shop.Attrs": ["a"], "shop.Struct": ["b"], "model": ["c"], "shop.Picky": []} == {
        line["wire_name"]: line["sent_to"] for line in found["messages"]
    }
    assert {"model": "a"} == {line["wire_name"]: line["key"] for line in found["messages"] if line["key"]}
    assert {"shop.Billed": ["shop.Attrs"], "shop.Struct": ["shop.Struct"], "shop.Modle": []} == {
        line["route"]: line["fits"] for line in found["routes"]
    }


def test_a_route_that_fits_nothing(shop: Shop) -> None:
    """One that fits no message is a warning in ``debug`` and in ``check``, whose exit code stays 0."""
    shop.append(KINDS.replace("shop.Modle", "shop.Invoice"))

    assert "Warning: Route 'shop.Invoice' fits no known message." in shop.run("debug").stderr
    checked = shop.run("check")
    assert "warning  Route 'shop.Invoice' fits no known message." in checked.stdout
    assert 0 == checked.exit_code


def test_check_finds_a_misspelt_route(shop: Shop) -> None:
    """One that fits no message, and nearly one that has no route, is a problem, with the one that was meant."""
    shop.append("""
        app = Postbus(transports={"a": "in-memory://"}, routing={"shop.OrderPlcaed": "a", "shop.MailSent": "a"})
        app.message("order.placed")(OrderPlaced)
        app.message(MailSent)
    """)
    checked = shop.run("check", "--format", "json")

    assert [["routes", "Route 'shop.OrderPlcaed' fits no known message. Did you mean 'shop.OrderPlaced'?"]] == [
        [finding["what"], finding["detail"]] for finding in json.loads(checked.stdout) if finding["status"] == "problem"
    ]
    assert 1 == checked.exit_code


def test_plugins_lists_what_is_installed(shop: Shop) -> None:
    """Each plugin with its version, schemes and guarantees."""
    lines = shop.run("plugins").stdout.splitlines()

    [line] = [line for line in lines if line.startswith("in-memory ")]
    assert ["in-memory", "0.1.0", "in-memory://"] == line.split()[:3]
    assert "fifo" in line


def test_plugins_shows_every_option_of_one(shop: Shop) -> None:
    """All options with type, default, unit and meaning, and all guarantees."""
    [plugin] = shop.json("plugins", "in-memory")["plugins"]
    [group] = plugin["schemes"]
    options = {option["name"]: option for option in group["options"]}

    assert ("bool", True) == (options["serialize"]["type"], options["serialize"]["default"])
    assert ("seconds", 60.0) == (options["lease"]["unit"], options["lease"]["default"])
    assert options["lease"]["meaning"]
    assert "fifo" == group["guarantees"]["ordering"]
    output = shop.run("plugins", "in-memory").stdout
    assert options["lease"]["meaning"] in output


def test_plugins_as_markdown_is_for_a_readme(shop: Shop) -> None:
    """One plugin has a table of its options and one of its guarantees; all of them at once have none."""
    lines = shop.run("plugins", "in-memory", "--format", "markdown").stdout.splitlines()
    of_all = shop.run("plugins", "--format", "markdown")

    assert "Options of `in-memory://`:" in lines
    assert "| `lease` | float, seconds, at least 0.001 | `60` |" in "\n".join(lines)
    assert "| Durable | no | A stored message survives a restart of the broker. |" in lines
    assert (2, "") == (of_all.exit_code, of_all.stdout)
    assert "Name a plugin, or a scheme, for --format markdown." in of_all.stderr


@pytest.mark.usefixtures("shop", "no_broker")
def test_plugins_that_are_not_there(shop: Shop) -> None:
    """A misspelt plugin gets the nearest; a scheme that nothing serves, what to install."""
    misspelt, missing = shop.run("plugins", "in-memroy"), shop.run("plugins", "amqp")

    assert 2 == misspelt.exit_code == missing.exit_code
    assert "Did you mean 'in-memory'?" in misspelt.stderr
    assert "No plugin serves amqp://. Install it: pip install postbus-amqp" in missing.stderr


def test_check_finds_nothing_wrong(shop: Shop) -> None:
    """An app that could work now: every finding is ok, and the exit code 0."""
    result = shop.run("check", "--format", "json")

    assert 0 == result.exit_code
    findings = json.loads(result.stdout)
    assert {"ok"} == {finding["status"] for finding in findings if not finding["what"].startswith("transport ")}
    assert {"configuration", "transport orders", "handlers", "routes"} <= {finding["what"] for finding in findings}


def test_check_shows_no_secret(shop: Shop) -> None:
    """DSNs are shown without what is secret in them."""
    shop.append('app = Postbus(transports={"a": "in-memory://me:hush@queue"})')
    output = shop.run("check").output

    assert "in-memory://***:***@queue" in output
    assert "hush" not in output


@pytest.mark.usefixtures("shop", "no_broker")
def test_check_tells_of_a_mistake_in_the_configuration(shop: Shop) -> None:
    """What is wrong with the configuration is found, each mistake by itself, and the exit code is 1."""
    shop.write('[transports]\na = "amqp://me:hush@localhost"\nb = "in-memory://?leese=1"\n', "postbus.toml")
    result = shop.run("check", "--format", "json", app="")

    assert 1 == result.exit_code
    assert ["configuration", "configuration"] == [finding["what"] for finding in json.loads(result.stdout)]
    assert "pip install postbus-amqp" in result.stdout
    assert "Did you mean 'lease'?" in result.stdout
    assert "hush" not in result.output


def test_check_tells_of_transports_and_handlers(shop: Shop) -> None:
    """A broker that is away, and handlers that cannot be imported, are problems; neither hides the other."""
    shop.append("""
        from postbus.errors import ConnectionLost

        class Away:
            name = "away"
            def send(self, envelopes): raise ConnectionLost("Nobody listens.")
            def count(self): raise ConnectionLost("Nobody listens.")
            def close(self): pass

        class Bare(Away):
            def setup(self): pass
            def missing(self): return ["There is no table 'messages'."]

        app = Postbus(transports={"away": Away(), "bare": Bare()}, handlers=["nowhere"])
    """)
    result = shop.run("check", "--format", "json")

    assert 1 == result.exit_code
    problems = {found["what"]: found["detail"] for found in json.loads(result.stdout) if found["status"] == "problem"}
    assert "Nobody listens." in problems["transport away"]
    assert "There is no table 'messages'." in problems["transport bare"]
    assert "nowhere" in problems["handlers"]


def test_check_warns_of_messages_that_would_be_dropped(shop: Shop) -> None:
    """An app without a failure transport is warned."""
    shop.append('app = Postbus(transports={"a": "in-memory://"})')

    assert "None is configured, so what finally fails is dropped." in shop.run("check").stdout


def test_a_worker_that_is_not_there(shop: Shop) -> None:
    """``check --worker`` looks at the worker's file, and does not even load the app."""
    result = shop.run("check", "--worker", "--health-file", "health", app="nowhere:app")

    assert 1 == result.exit_code
    assert "cannot be read" in result.stdout
    assert 2 == shop.run("check", "--worker").exit_code


@pytest.mark.parametrize(("option", "status"), [("", "ok"), ("&auto_setup=false", "problem")])
def test_check_of_what_is_set_up_at_the_first_use(shop: Shop, option: str, status: str) -> None:
    """A file that is not there yet is no problem where the first use makes it, and is not made by looking."""
    shop.append(f"""
        app = Postbus(transports={{"a": "sqlite:///new.db?queue_name=a{option}"}}, routing={{}}, failure_transport="a")
    """)
    result = shop.run("check", "--format", "json")

    [finding] = [found for found in json.loads(result.stdout) if found["what"] == "transport a"]
    assert status == finding["status"]
    if status == "ok":
        assert finding["detail"].endswith(", is set up at the first use")
    assert not (shop.folder / "new.db").exists()
