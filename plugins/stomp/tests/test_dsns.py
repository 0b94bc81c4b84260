"""What a DSN may say, and what is said of one that makes no sense."""

from __future__ import annotations

import pytest

from postbus import Postbus
from postbus.dsn import Dsn, Host
from postbus.errors import ConfigurationError
from postbus_stomp.options import Settings


def test_a_dsn_of_a_scheme_alone_is_enough() -> None:
    """It is the queue ``messages`` on this machine, at the port that ActiveMQ has for STOMP."""
    settings = Settings(Dsn.parse("stomp://"))

    assert ((Host("localhost", 61613),), "/queue/messages") == (settings.hosts, settings.destination)


def test_a_dsn_says_who_logs_in_where() -> None:
    """User, password, several hosts and the queue, each decoded; an option wins over the path."""
    settings = Settings(Dsn.parse("stomps://me:p%3Aw@one,two:1234/shop.orders"))

    assert (Host("one", 61612), Host("two", 1234)) == settings.hosts
    assert ("me", "p:w", "/queue/shop.orders") == (
        settings.options.user,
        settings.options.password,
        settings.destination,
    )
    assert "/queue/other" == Settings(Dsn.parse("stomp://one/orders?queue_name=other")).destination


@pytest.mark.parametrize(
    ("dsn", "problem"),
    [
        ("stomp://localhost/a,b", "Rename it."),
        ("stomp://localhost/a.%3E", "Rename it."),
        ("stomp://localhost/a%3Fconsumer.exclusive=true", "Rename it."),
        ("stomp://localhost/a?cacert=ca.pem", "Write stomps://"),
        ("stomp://me@localhost/a", "a user or a password, and not both"),
    ],
)
def test_what_makes_no_sense_is_refused(dsn: str, problem: str) -> None:
    """With what to write instead, before anything is connected to."""
    app = Postbus(transports={"orders": dsn})

    with pytest.raises(ConfigurationError) as caught:
        app.transport("orders")

    assert problem in str(caught.value)
