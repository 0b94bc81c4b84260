"""What is sent to ``sync://`` is handled at once, as if it had been received."""

from dataclasses import dataclass

import pytest

import postbus_sync
from postbus import Postbus, stamps
from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, HandlerFailed, MessageRefused
from postbus.plugins import Plugin, Plugins


@dataclass(frozen=True)
class OrderPlaced:
    order_id: int


def make_app(dsn="sync://"):
    plugins = Plugins()
    plugins.add(postbus_sync, Plugin("sync", "postbus-sync", "0.1.0"))
    return Postbus(transports={"now": dsn}, routing={OrderPlaced: "now"}, plugins=plugins)


def test_a_message_is_handled_before_dispatch_returns():
    """The envelope that comes back says by whom it was handled, and what came out."""
    app = make_app()

    @app.handler
    def confirm(order: OrderPlaced) -> str:
        return f"order {order.order_id} is confirmed"

    envelope = app.dispatch(OrderPlaced(13))

    assert "order 13 is confirmed" == envelope.last(stamps.Result).value
    assert envelope.has(stamps.Handled)
    assert stamps.Sent("now") == envelope.last(stamps.Sent)


def test_the_envelope_that_comes_back_was_not_received():
    """For who dispatched it, the message came from nowhere; it could be sent on."""
    app = make_app()

    @app.handler
    def confirm(order: OrderPlaced) -> None:
        pass

    assert not app.dispatch(OrderPlaced(13)).has(stamps.Received)


def test_a_handler_sees_where_the_message_came_from():
    """Handlers bound to a transport run for what it handles, and the envelope names it."""
    app = make_app()
    seen = []

    @app.handler(from_transport="now")
    def confirm(order: OrderPlaced, envelope: Envelope) -> None:
        seen.append(envelope.last(stamps.Received).transport)

    app.dispatch(OrderPlaced(13))

    assert ["now"] == seen


def test_what_a_handler_raises_reaches_the_caller():
    """There is no worker that would try again."""
    app = make_app()

    @app.handler
    def confirm(order: OrderPlaced) -> None:
        raise ValueError("no such order")

    with pytest.raises(HandlerFailed, match="no such order"):
        app.dispatch(OrderPlaced(13))


def test_several_messages_are_handled_in_order_until_one_fails():
    """What comes after the one that failed is not handled."""
    app = make_app()
    seen = []

    @app.handler
    def confirm(order: OrderPlaced) -> None:
        if order.order_id == 2:
            raise ValueError("no such order")
        seen.append(order.order_id)

    with pytest.raises(HandlerFailed):
        app.transport("now").send([Envelope.wrap(OrderPlaced(number)) for number in (1, 2, 3)])

    assert [1] == seen


def test_a_delay_has_no_effect():
    """Nothing is stored, so nothing can wait."""
    app = make_app()
    seen = []

    @app.handler
    def confirm(order: OrderPlaced) -> None:
        seen.append(order.order_id)

    app.dispatch(OrderPlaced(13), stamps.Delay(3600))

    assert [13] == seen


def test_there_is_nothing_to_consume():
    """A worker for it is refused."""
    with pytest.raises(ConfigurationError, match="nothing to consume"):
        make_app().worker("now")


def test_options_are_refused():
    """There is nothing to set."""
    with pytest.raises(ConfigurationError, match="Unknown option 'retries' for sync://"):
        make_app("sync://?retries=3")


def test_closing_twice_is_quiet():
    """There is nothing to let go of."""
    transport = make_app().transport("now")

    transport.close()
    transport.close()


def test_a_stamp_that_asks_for_a_transaction_is_refused():
    """What is handled at once is in no transaction, so the message is not handled, and whoever sent it hears why."""

    class InTransaction(stamps.Stamp):
        requires = "transactional_send"

    app, handled = make_app(), []
    app.handler(handled.append, handles=OrderPlaced)

    with pytest.raises(MessageRefused, match=r"'now' cannot do what stamps\.InTransaction asks for"):
        app.dispatch(OrderPlaced(13), InTransaction())

    assert [] == handled
