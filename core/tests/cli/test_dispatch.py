"""``postbus dispatch``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from postbus import stamps

if TYPE_CHECKING:
    from conftest import Shop


@pytest.mark.parametrize("name", ["order.placed", "placed", "OrderPlaced"])
def test_a_message_by_any_clear_name(shop: Shop, name: str) -> None:
    """The type is its whole name, the last part of it, or the name of the class."""
    result = shop.run("dispatch", name, '{"order_id": 7}')

    assert 0 == result.exit_code, result.output
    assert "sent to 'orders'" in result.stdout


def test_what_became_of_it_as_json(shop: Shop) -> None:
    """The JSON has the message's id, and where it was stored under which id."""
    found = shop.json("dispatch", "OrderPlaced", '{"order_id": 7}')

    assert "order.placed" == found["type"]
    assert found["message_id"]
    assert [{"transport": "orders", "id": "1"}] == found["sent"]


def test_from_stdin(shop: Shop) -> None:
    """``-`` reads the JSON from stdin."""
    result = shop.run("dispatch", "MailSent", "-", input='{"to": "ä@example.org"}')

    assert "sent to 'mails'" in result.stdout


def test_delayed(shop: Shop) -> None:
    """``--delay`` takes a duration."""
    shop.run("dispatch", "OrderPlaced", '{"order_id": 7}', "--delay", "5m")

    assert 1 == shop.json("stats")["transports"]["orders"]["delayed"]


def test_with_a_key(shop: Shop) -> None:
    """``--key`` says what the message belongs to."""
    shop.run("dispatch", "OrderPlaced", '{"order_id": 7}', "--key", "acme")

    [sent] = shop.app.transport("orders").sent
    assert stamps.Key("acme") == sent.last(stamps.Key)


def test_elsewhere(shop: Shop) -> None:
    """``--transport`` overrides the routing."""
    shop.run("dispatch", "OrderPlaced", '{"order_id": 7}', "--transport", "mails")

    assert 1 == shop.json("stats")["transports"]["mails"]["waiting"]


def test_handled_here(shop: Shop) -> None:
    """A message for a transport that handles at once tells which handlers have."""
    found = shop.json("dispatch", "OrderPlaced", '{"order_id": 7}', "--transport", "now")

    assert {"shop.send_receipt", "shop.note"} == set(found["handled"])


def test_handled_here_and_failed(shop: Shop) -> None:
    """If handling fails, the exit code is 1, and the error a sentence."""
    result = shop.run("dispatch", "OrderPlaced", '{"order_id": 13}', "--transport", "now")

    assert 1 == result.exit_code
    assert "Error: Handling OrderPlaced failed: ValueError: order 13 is unlucky" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["OrderPlaced", '{"order_id": "7"}'], "This is no order.placed: $.order_id: expected int, got str."),
        (["OrderPlaced", "{"], "This is no order.placed: "),
        (["OrderPlaced", "{}"], "$: object missing required field order_id."),
        (["OrdrPlaced", "{}"], "There is no message 'OrdrPlaced'. Did you mean"),
        (["OrderPlaced", '{"order_id": 7}', "--transport", "ordesr"], "There is no transport 'ordesr'."),
        (["OrderPlaced", '{"order_id": 7}', "--bus", "nix"], "There is no bus 'nix'. Buses: default."),
    ],
)
def test_a_mistake(shop: Shop, arguments: list[str], problem: str) -> None:
    """A mistake is one sentence and exit code 2, and nothing is sent."""
    result = shop.run("dispatch", *arguments)

    assert 2 == result.exit_code
    assert problem in result.stderr
    assert 0 == shop.json("stats")["transports"]["orders"]["waiting"]


def test_an_ambiguous_name(shop: Shop) -> None:
    """A last part that two names share is refused, with both."""
    shop.append("""
        @app.message("return.placed")
        @dataclass(frozen=True)
        class ReturnPlaced:
            order_id: int
    """)
    result = shop.run("dispatch", "placed", json.dumps({"order_id": 7}))

    assert 2 == result.exit_code
    assert "'placed' may be any of order.placed, return.placed. Write the whole name." in result.stderr


def test_a_message_that_nobody_takes(shop: Shop) -> None:
    """A message with neither route nor handler is a mistake of the configuration: exit code 2."""
    shop.append("""
        @app.message
        @dataclass(frozen=True)
        class Forgotten:
            pass
    """)

    assert 2 == shop.run("dispatch", "Forgotten", "{}").exit_code
