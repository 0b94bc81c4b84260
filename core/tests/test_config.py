"""Configuration: files, the environment, and every mistake at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
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
        "transports.a.dsn uses ${REDIS_DSN}, which is not set in the environment. "
        "Set it, or write ${REDIS_DSN:-default}."
    ] == problems({"transports": {"a": {"dsn": "${REDIS_DSN}"}}})


def test_all_mistakes_are_reported_at_once() -> None:
    """Every key that is unknown, of a wrong type, or names what does not exist, has a sentence of its own."""
    found = problems(
        {
            "transprots": {},
            "transports": {
                "a": {"dns": "in-memory://"},
                "b": 3,
                "c": {"dsn": "in-memory://", "options": "x"},
                "e": {"options": {}},
            },
            "routing": {"shop.*.x": "c", "shop.Order": ["c", "d"], "*": 5},
            "failure_transport": "faild",
            "retry": {"max_retries": -1, "delay": "soon", "facter": 2},
            "buses": {"one": {"middleware": "x"}, "two": {"allow_no_handlers": "yes"}},
            "handlers": 7,
        }
    )
    text = "\n".join(found)
    for expected in (
        "transprots is no key of the configuration. Did you mean 'transports'?",
        "transports.a.dns is no key of the configuration. Did you mean 'dsn'?",
        "transports.e.dsn is missing",
        "transports.b must be a DSN or a table",
        "transports.c.options must be a table",
        "routing.shop.*.x is no route",
        "routing.shop.Order names the transport 'd', which is not configured",
        "routing.* must be a name or a list of names",
        "failure_transport names the transport 'faild', which is not configured",
        "retry.facter is no key of the configuration. Did you mean 'factor'?",
        "retry.delay must be a number, got 'soon'.",
        "retry: Retry option 'max_retries' must be at least 0, got -1.",
        "buses.one.middleware must be a list",
        "buses.two.allow_no_handlers must be true or false, got 'yes'.",
        "default_bus is missing. Name one of the buses: one, two.",
        "handlers must be 'auto', or a list",
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


# Retries of some errors.

ERRORS = """
class CardDeclined(Exception):
    class Forever(Exception):
        pass

class Interrupt(BaseException):
    pass

limit = 3
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Put a package ``a_shop`` on the path, with exceptions in a module; return the module."""
    (tmp_path / "a_shop").mkdir()
    (tmp_path / "a_shop" / "__init__.py").touch()
    (tmp_path / "a_shop" / "errors.py").write_text(ERRORS)
    (tmp_path / "a_shop" / "broken.py").write_text("from a_shop.errors import Gone")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield import_module("a_shop.errors")
    for name in [name for name in sys.modules if name.partition(".")[0] == "a_shop"]:
        del sys.modules[name]


def test_a_file_names_errors_by_their_dotted_names(shop: Any, tmp_path: Path) -> None:
    """A policy, or "never", stands behind the name of a class; one without a dot is built in."""
    (tmp_path / "postbus.toml").write_text("""
        [transports.orders]
        dsn = "in-memory://"

        [transports.orders.retry]
        max_retries = 5
        immediate = 2

        [transports.orders.retry.errors]
        "a_shop.errors.CardDeclined" = "never"
        "a_shop.errors.CardDeclined.Forever" = { delay = 60, max_retries = 20 }
        TimeoutError = { immediate = 5 }
    """)
    orders = check(read_file(tmp_path / "postbus.toml"), {}).transports["orders"]

    assert isinstance(orders, TransportConfig)
    policy = Backoff(
        max_retries=5,
        immediate=2,
        errors={
            shop.CardDeclined: "never",
            shop.CardDeclined.Forever: Backoff(delay=60, max_retries=20),
            TimeoutError: Backoff(immediate=5),
        },
    )
    assert policy == orders.retry


def test_code_names_errors_by_their_classes() -> None:
    """In code the class itself may stand there, and a policy of any kind."""
    policy = Backoff(delay=60)
    config = check({"retry": {"errors": {ValueError: "never", TimeoutError: policy, KeyError: {"delay": 2}}}}, {})

    assert Backoff(errors={ValueError: "never", TimeoutError: policy, KeyError: Backoff(delay=2)}) == config.retry


@pytest.mark.parametrize(
    ("name", "policy", "expected"),
    [
        (
            "TimoutError",
            "never",
            "retry.errors.TimoutError is not built into Python. "
            "Write its whole name, in quotes, such as 'package.module.Name'.",
        ),
        (
            "no_such.module.Error",
            "never",
            "retry.errors.no_such.module.Error names no module that is found on the Python path. "
            "Write its whole name, in quotes, such as 'package.module.Name'.",
        ),
        (
            "a_shop.errors.CardDeclind",
            "never",
            "retry.errors.a_shop.errors.CardDeclind cannot be found: 'a_shop.errors' has no 'CardDeclind'. "
            "Did you mean 'CardDeclined'?",
        ),
        (
            "a_shop.errors.Timeout",
            "never",
            "retry.errors.a_shop.errors.Timeout cannot be found: 'a_shop.errors' has no 'Timeout'. "
            "Define it above the app, or in another module.",
        ),
        (
            "a_shop.broken.Gone",
            "never",
            "retry.errors.a_shop.broken.Gone cannot be looked up: cannot import name 'Gone' from 'a_shop.errors' "
            "({path}/a_shop/errors.py). Mend that, or give the class itself, in code.",
        ),
        (
            "a_shop.errors.limit",
            "never",
            "retry.errors.a_shop.errors.limit is no class of errors. "
            "Write one that is an Exception, or a subclass of one.",
        ),
        (
            "a_shop.errors.Interrupt",
            "never",
            "retry.errors.a_shop.errors.Interrupt is no class of errors. "
            "Write one that is an Exception, or a subclass of one.",
        ),
        (
            "a_shop:CardDeclined",
            "never",
            "retry.errors.a_shop:CardDeclined is no name of a class. "
            "Write its whole name, in quotes, such as 'package.module.Name'.",
        ),
        (
            "ValueError",
            "always",
            "retry.errors.ValueError must be a table, a RetryPolicy or 'never', got 'always'.",
        ),
        (
            "ValueError",
            {"dely": 3},
            "retry.errors.ValueError.dely is no key of the configuration. Did you mean 'delay'?",
        ),
        (
            "ValueError",
            {"delay": -1},
            "retry.errors.ValueError: Retry option 'delay' must be at least 0, got -1.",
        ),
    ],
)
def test_a_mistake_in_an_error_is_told_by_its_key(
    shop: Any, tmp_path: Path, name: str, policy: Any, expected: str
) -> None:
    """Each says which key, what is wrong with it, and what to do."""
    assert [expected.format(path=tmp_path)] == problems({"retry": {"errors": {name: policy}}})


def test_a_dotted_name_without_quotes_is_told_what_it_is() -> None:
    """TOML makes tables of such a name."""
    found = problems({"retry": {"errors": {"pydantic": {"ValidationError": "never"}}}})
    assert (
        "retry.errors.pydantic is not built into Python. "
        "Write its whole name, in quotes, such as 'package.module.Name'." in found
    )


def test_a_module_that_breaks_while_it_is_imported_says_why(shop: Any, tmp_path: Path) -> None:
    """What a module misses itself is told too, with the key that it was imported for."""
    (tmp_path / "a_shop" / "poor.py").write_text("import no_such_library")
    found = problems({"retry": {"errors": {"a_shop.poor.Gone": "never"}}})
    assert ["No module named 'no_such_library'" in problem for problem in found] == [True]
