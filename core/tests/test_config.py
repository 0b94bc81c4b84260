"""Configuration: files, the environment, and every mistake at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from postbus import Backoff, ConfigurationError, Postbus
from postbus.config import TransportConfig, check, find_file, read_file


def problems(given: dict[str, Any], environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        check(given, environment or {})
    return list(caught.value.problems)


def test_a_file_and_arguments_give_the_same() -> None:
    """The structure of postbus.toml is that of the arguments."""
    config = check(
        {
            "transports": {
                "a": "in-memory://",
                "b": {"dsn": "in-memory://", "options": {"lease": 3}, "retry": {"max_retries": 7}},
                "failed": "in-memory://",
            },
            "routing": {"shop.*": ["a", "b"], "*": "a"},
            "failure_transport": "failed",
            "buses": {"default": {"allow_no_handlers": True}},
        },
        {},
    )
    b = config.transports["b"]
    assert isinstance(b, TransportConfig)
    assert Backoff(max_retries=7) == b.retry
    assert {"lease": 3} == b.options
    assert {"shop.*": ["a", "b"], "*": ["a"]} == config.routing
    assert config.buses["default"].allow_no_handlers


def test_the_environment_is_filled_in() -> None:
    """${NAME} and ${NAME:-default} are replaced at any depth; an empty variable counts as unset."""
    config = check(
        {
            "transports": {
                "a": {"dsn": "${DSN}", "options": {"x": ["${HOST:-localhost}", "${EMPTY:-fallback}"]}},
            }
        },
        {"DSN": "in-memory://", "EMPTY": ""},
    )
    a = config.transports["a"]
    assert isinstance(a, TransportConfig)
    assert ("in-memory://", {"x": ["localhost", "fallback"]}) == (a.dsn, a.options)


def test_an_unset_variable_names_the_key_it_was_used_for() -> None:
    """The error for an unset variable says which key needs which variable, and what to do."""
    assert [
        "transports.a.dsn uses ${REDIS_DSN}, which is not set in the environment; "
        "set it, or write ${REDIS_DSN:-default}."
    ] == problems({"transports": {"a": {"dsn": "${REDIS_DSN}"}}})


def test_all_mistakes_are_reported_at_once() -> None:
    """Every key that is unknown, of a wrong type, or names what does not exist, has a sentence of its own."""
    found = problems(
        {
            "transprots": {},
            "transports": {"a": {"dns": "in-memory://"}, "b": 3, "c": {"dsn": "in-memory://", "options": "x"}},
            "routing": {"shop.*.x": "c", "shop.Order": ["c", "d"], "*": 5},
            "failure_transport": "faild",
            "retry": {"max_retries": -1, "delay": "soon", "facter": 2},
            "buses": {"one": {"middleware": "x"}, "two": {"allow_no_handlers": "yes"}},
            "handlers": 7,
        }
    )
    text = "\n".join(found)
    for expected in (
        "transprots is not known; did you mean 'transports'.",
        "transports.a.dns is not known; did you mean 'dsn'.",
        "transports.a.dsn is missing",
        "transports.b must be a DSN or a table",
        "transports.c.options must be a table",
        "routing.shop.*.x is no route",
        "routing.shop.Order names the transport 'd', which is not configured",
        "routing.* must be a name or a list of names",
        "failure_transport names the transport 'faild', which is not configured",
        "retry.facter is not known; did you mean 'factor'.",
        "retry.delay must be a number, got 'soon'.",
        "retry: Retry option 'max_retries' must be at least 0, got -1.",
        "buses.one.middleware must be a list",
        "buses.two.allow_no_handlers must be true or false, got 'yes'.",
        "default_bus is missing; name one of the buses: one, two.",
        "handlers must be a list",
    ):
        assert expected in text


def test_a_secret_in_the_wrong_place_is_not_shown() -> None:
    """What stands where a DSN belongs is not quoted, because it may hold a password."""
    found = problems({"transports": {"a": {"dsn": ["redis://:hunter22@localhost"]}}})
    assert "hunter22" not in "\n".join(found)


def test_the_variable_alone_makes_a_transport() -> None:
    """POSTBUS_TRANSPORT_DSN is read when no transport is configured, and everything is routed to it."""
    environment = {"POSTBUS_TRANSPORT_DSN": "in-memory://"}
    assert {"*": ["async"]} == check({}, environment).routing
    assert ["b"] == list(check({"transports": {"b": "sync://"}}, environment).transports)
    assert {"*": ["async"]} != check({"routing": {"x.*": "async"}}, environment).routing


def test_files_are_found_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """postbus.toml wins over [tool.postbus]; a pyproject.toml without that table is none of ours."""
    assert find_file(tmp_path) is None
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text("[project]\nname = 'x'\n")
    assert find_file(tmp_path) is None
    pyproject.write_text("[tool.postbus.transports]\na = 'in-memory://'\n")
    assert pyproject == find_file(tmp_path)
    assert {"transports": {"a": "in-memory://"}} == read_file(pyproject)
    (tmp_path / "postbus.toml").write_text("[transports]\nb = 'in-memory://'\n[routing]\n'*' = 'b'\n")
    monkeypatch.chdir(tmp_path)
    assert ["b"] == list(Postbus().transports)
    assert [] == list(Postbus(transports={}).transports)


def test_a_broken_file_is_one_sentence(tmp_path: Path) -> None:
    """A file that is not TOML, or not there, is named with the reason."""
    path = tmp_path / "postbus.toml"
    with pytest.raises(ConfigurationError, match=r"postbus\.toml cannot be read: No such file or directory\."):
        read_file(path)
    path.write_text("[transports\n")
    with pytest.raises(ConfigurationError, match=r"postbus\.toml is not TOML"):
        read_file(path)
