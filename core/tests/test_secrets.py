"""No secret of a DSN is shown, wherever it stands, and however it is looked at."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.pretty import pretty_repr

from postbus import ConfigurationError, Postbus
from postbus.cli import main
from postbus.config import TransportConfig
from postbus.dsn import Dsn, Options, masked
from postbus.plugins import installed_plugins

SECRET = "hunter2"
DSN = f"in-memory://user:{SECRET}@queue"

WRONG: dict[str, Any] = {
    "a list": {"transports": {"q": [DSN]}},
    "a list of all": {"transports": [DSN]},
    "a text of all": {"transports": DSN},
    "a name": {"transports": {DSN: DSN}},
    "a name with a table": {"transports": {DSN: {"retry": {"delay": "x"}, "failure_transport": "x"}}},
    "a nested table": {"transports": {"q": {"dsn": {"dsn": DSN}}}},
    "a list of a DSN": {"transports": {"q": {"dsn": [DSN]}}},
    "a number": {"transports": {"q": {"dsn": "in-memory://", "options": 13}, "r": {"dsn": 13}}},
    "an unknown key": {"transports": {"q": {DSN: 1, "dsn": "in-memory://"}}},
    "an unknown key at the top": {DSN: 1},
    "options": {"transports": {"q": {"dsn": "in-memory://", "options": DSN}}},
    "a password for options": {"transports": {"q": {"dsn": "in-memory://", "options": SECRET}}},
    "a password for a DSN": {"transports": {"q": SECRET}},
    "the name of an option": {"transports": {"q": {"dsn": "in-memory://", "options": {DSN: 1}}}},
    "an option": {"transports": {"q": {"dsn": "in-memory://", "options": {"lease": DSN}}}},
    "a secret option": {"transports": {"q": {"dsn": "in-memory://", "options": {"password": SECRET}}}},
    "a serializer": {"transports": {"q": {"dsn": "in-memory://", "serializer": DSN}}},
    "a retry": {"transports": {"q": {"dsn": "in-memory://", "retry": DSN}}},
    "a delay": {"retry": {"delay": DSN}},
    "an error": {"retry": {"errors": {DSN: "never"}}},
    "a policy": {"retry": {"errors": {"ValueError": DSN}}},
    "a kill switch": {"transports": {"q": {"dsn": "in-memory://", "kill_switch": DSN}}},
    "a rate": {"transports": {"q": {"dsn": "in-memory://", "rate_limit": DSN}}},
    "a store": {
        "transports": {"q": {"dsn": "in-memory://", "rate_limit": "1/s", "rate_limit_store": f"x://:{SECRET}"}}
    },
    "a store in a list": {"transports": {"q": {"dsn": "in-memory://", "rate_limit_store": [DSN]}}},
    "a store that is a number": {"transports": {"q": {"dsn": "in-memory://", "rate_limit_store": 13}}},
    "a failure transport": {"failure_transport": DSN},
    "one of its own": {"transports": {"q": {"dsn": "in-memory://", "failure_transport": DSN}}},
    "a failure transport in a list": {"failure_transport": [DSN]},
    "a route": {"routing": {DSN: "q"}},
    "where a route leads": {"routing": {"*": DSN}},
    "where a route leads, in a list": {"routing": {"*": [DSN]}},
    "the routing": {"routing": DSN},
    "the routing in a list": {"routing": [DSN]},
    "a bus": {"buses": {DSN: {}}},
    "the buses": {"buses": DSN},
    "what a bus has": {"buses": {"a": DSN}},
    "a middleware": {"buses": {"a": {"middleware": [DSN]}}},
    "the middleware": {"buses": {"a": {"middleware": DSN}}},
    "a flag": {"buses": {"a": {"allow_no_handlers": DSN}}},
    "the default bus": {"default_bus": DSN},
    "the handlers": {"handlers": {"a": DSN}},
    "handlers": {"handlers": [DSN]},
    "one handler": {"handlers": DSN},
    "the app": {"app": [DSN]},
    "the name": {"name": [DSN]},
    "ambiguous": {"transports": {"q": f"in-memory://user:{SECRET}/x@queue"}},
    "white space": {"transports": {"q": f"in-memory://user: {SECRET}@queue"}},
    "half an option": {"transports": {"q": f"in-memory://queue?password=a&{SECRET}"}},
    "a wrong option": {"transports": {"q": f"{DSN}?lease=user:{SECRET}@host"}},
    "an unknown scheme": {"transports": {"q": f"nowhere://user:{SECRET}@queue"}},
    "no scheme": {"transports": {"q": f"user:{SECRET}@queue"}},
    "one slash": {"transports": {"q": f"in-memory:/:{SECRET}@queue"}},
    "bytes": {"transports": {"q": DSN.encode()}},
    "bytes for a DSN": {"transports": {"q": {"dsn": DSN.encode(), "options": DSN.encode()}}},
    "a set": {"transports": {"q": {DSN}}, "routing": {"*": {DSN}}, "handlers": {DSN}},
}

NUMBER = "13"
"""A password may be a number."""


def ways_to_look(error: BaseException) -> Iterator[str]:
    yield str(error)
    yield repr(error)
    yield "".join(traceback.format_exception(error))


@pytest.mark.parametrize("config", WRONG.values(), ids=WRONG)
def test_an_error_shows_no_secret(config: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Where a DSN stands in a wrong place, the error names the place, and no more."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ConfigurationError) as raised:
        Postbus(config=config).bus()
    for text in (*ways_to_look(raised.value), caplog.text):
        assert SECRET not in text
    assert NUMBER not in str(raised.value)


@pytest.mark.parametrize(
    "config",
    [
        {"transports": {"q": "${SECRET}"}},
        {"transports": {"q": {"dsn": "in-memory://", "options": {"lease": "${SECRET}"}}}},
        {"transports": {"q": {"dsn": "in-memory://", "serializer": "${SECRET}"}}},
        {"transports": {"q": {"dsn": "in-memory://", "rate_limit": "${SECRET}"}}},
        {"transports": {"q": {"dsn": "in-memory://", "failure_transport": "${SECRET}"}}},
        {"failure_transport": "${SECRET}"},
        {"default_bus": "a${SECRET}"},
        {"routing": {"*": ["${SECRET}"]}},
        {"retry": {"delay": "${SECRET}"}},
        {"retry": {"errors": {"ValueError": "${SECRET:-x}"}}},
        {"handlers": "${SECRET}"},
        {"buses": {"a": {"middleware": ["${SECRET}"]}}},
        {"buses": {"a": {"allow_no_senders": "${SECRET}"}}},
    ],
    ids=str,
)
def test_what_came_from_the_environment_is_not_shown(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that stands in a wrong place is shown as it was written: its value may be a password."""
    monkeypatch.setenv("SECRET", SECRET)
    with pytest.raises(ConfigurationError) as raised:
        Postbus(config=config).bus()
    assert not [text for text in ways_to_look(raised.value) if SECRET in text]


def test_what_came_from_the_environment_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a text like any other, for who copies or pickles a configuration."""
    monkeypatch.setenv("QUEUE", "in-memory://queue")
    config = Postbus(config={"transports": {"q": "${QUEUE}"}}).config
    for copied in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        transport = copied.transports["q"]
        assert isinstance(transport, TransportConfig)
        assert "in-memory://queue" == transport.dsn


def test_the_environment_shows_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same for a DSN in the variable that is read when nothing is configured."""
    monkeypatch.chdir(tmp_path)
    for text in (
        f"x://:{SECRET}@h",
        f"in-memory://a:{SECRET}/b@h",
        f"in-memory://h?x={SECRET}&lease=u:{SECRET}@h",
        SECRET,
    ):
        monkeypatch.setenv("POSTBUS_TRANSPORT_DSN", text)
        with pytest.raises(ConfigurationError) as raised:
            Postbus()
        assert not [shown for shown in ways_to_look(raised.value) if SECRET in shown]


@pytest.mark.parametrize("config", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("arguments", [["check"], ["check", "--format", "json"], ["--debug", "debug"]], ids=" ".join)
def test_the_command_line_shows_no_secret(
    config: dict[str, Any], arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a command on such an app, be it asked for the traceback."""
    module = ModuleType("wrong")
    module.__dict__["__getattr__"] = lambda name: Postbus(config=config)
    monkeypatch.setitem(sys.modules, "wrong", module)

    result = CliRunner().invoke(main, ["--app", "wrong:app", *arguments], prog_name="postbus")
    assert 0 != result.exit_code
    assert SECRET not in result.stdout + result.stderr


@pytest.mark.parametrize(
    "arguments", [("stats", DSN), ("dispatch", DSN, "{}"), ("consume", DSN), ("debug", DSN), (DSN,)]
)
def test_a_dsn_for_a_name_is_not_shown(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor does one that was given a DSN where a name belongs, in an argument or in place of the app."""
    monkeypatch.chdir(tmp_path)
    Path("postbus.toml").write_text("name = 'x'\n")
    for before in ((), ("--app", DSN)):
        result = CliRunner().invoke(main, [*before, *arguments], prog_name="postbus")
        assert 2 == result.exit_code
        assert SECRET not in result.stdout + result.stderr


def test_an_app_that_works_shows_no_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is configured as it should be is shown without its secrets: by repr, by rich, and by every command."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(tmp_path)
    Path("postbus.toml").write_text(f"""
        failure_transport = "f"
        routing = {{"*" = "q"}}
        transports.q = "{DSN}"
        transports.f = "{DSN}-failed"
        transports.r = {{dsn = "{DSN}", options = {{lease = 5.0}}, rate_limit_store = "redis://:{SECRET}@h"}}
    """)
    app = Postbus()
    made = [app.transport(name) for name in app.transports]
    connections = [transport.connection for transport in made]  # type: ignore[attr-defined]
    for thing in (app, app.config, *app.config.transports.values(), *made, *connections, app.router, app.failures):
        assert SECRET not in repr(thing) + str(thing) + pretty_repr(thing)
    output = io.StringIO()
    Console(file=output, width=500).print(app.config)
    assert "in-memory://***:***@queue" in output.getvalue()
    assert SECRET not in output.getvalue() + caplog.text

    commands = ["check", "debug", "stats", "plugins", "plugins in-memory", "setup", "failed show", "purge q --force"]
    for command in commands:
        for format in ("table", "json"):
            result = CliRunner().invoke(main, [*command.split(), "--format", format], prog_name="postbus")
            assert 0 == result.exit_code, result.output
            assert SECRET not in result.stdout + result.stderr


def test_a_config_that_was_made_by_hand_shows_no_secret() -> None:
    """Whatever stands in a `TransportConfig`, checked or not."""
    for dsn in (DSN, f"x:{SECRET}", SECRET, f"in-memory://a:{SECRET}/b@h"):
        options = {"password": SECRET, "a": {"token": SECRET}, "b": [f"x://{SECRET}@h"]}
        config = TransportConfig(dsn=dsn, options=options)
        assert SECRET not in repr(config) + pretty_repr(config)
    assert "lease=5" in repr(TransportConfig(dsn="in-memory://queue?lease=5"))


@pytest.mark.parametrize("scheme", sorted(installed_plugins().schemes))
def test_options_of_plugins_show_no_secret(scheme: str) -> None:
    """For each scheme that is installed: a secret that one of its options takes is in no repr."""
    options = installed_plugins().schemes[scheme].options
    for info in options.describe() if options is not None else ():
        dsn = Dsn(scheme, "user", SECRET, options={info.name: SECRET if info.secret else info.default})
        assert SECRET not in repr(dsn) + str(dsn) + pretty_repr(dsn)
        if info.secret and isinstance(options, type) and issubclass(options, Options):
            made = options.from_dsn(Dsn(scheme, options={info.name: (SECRET,) if "tuple" in info.type else SECRET}))
            assert SECRET not in repr(made) + str(made) + pretty_repr(made)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:x@h", "redis://***"),
        ("redis:?auth=x", "***"),
        ("user:x@host", "***"),
        ("token=x", "***"),
        ("//x", "***"),
        ("orders", "orders"),
        ("package.module:app", "package.module:app"),
        ("100/minute", "100/minute"),
    ],
)
def test_what_may_be_a_dsn(text: str, shown: str) -> None:
    """What people write where names belong is shown, and what may hold a secret is not."""
    assert shown == masked(text)
