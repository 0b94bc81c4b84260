"""``in-memory://`` for who tests with it: what is sent, what becomes of it, and how time passes."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

import postbus_in_memory
from postbus import Postbus, stamps
from postbus.errors import ConfigurationError, SerializationError
from postbus.limits import Limits
from postbus.plugins import Plugin, Plugins


@dataclass(frozen=True)
class OrderPlaced:
    order_id: int
    note: object = None


@dataclass
class Basket:
    items: list[str] = field(default_factory=list)


def make_app(dsn="in-memory://", **transports):
    plugins = Plugins()
    plugins.add(postbus_in_memory, Plugin("in-memory", "postbus-in-memory", "0.1.0"))
    return Postbus(transports={"later": dsn, **transports}, routing={"*": "later"}, plugins=plugins)


@pytest.fixture
def app():
    return make_app()


@pytest.fixture
def transport(app):
    return app.transport("later")


def messages(envelopes):
    return [envelope.message for envelope in envelopes]


def test_a_worker_handles_what_was_dispatched(app, transport):
    """From dispatch to ack, as on a broker."""
    seen = []

    @app.handler
    def confirm(order: OrderPlaced) -> None:
        seen.append(order)

    app.dispatch(OrderPlaced(13))
    app.worker(limits=Limits(messages=1)).run()

    assert [OrderPlaced(13)] == seen == messages(transport.acknowledged)


def test_sent_shows_what_was_dispatched(app, transport):
    """In the order of sending, with the stamps that the message was sent with, also those that do not travel."""
    app.dispatch(OrderPlaced(1))
    app.dispatch(OrderPlaced(2), stamps.Delay(60))

    assert [OrderPlaced(1), OrderPlaced(2)] == messages(transport.sent)
    assert stamps.Delay(60) == transport.sent[1].last(stamps.Delay)
    assert stamps.Sent("later", "2") == transport.sent[1].last(stamps.Sent)


def test_sent_shows_the_message_as_it_was(app, transport):
    """What happens to an object after it was dispatched changes nothing of what was sent."""
    basket = Basket(["apple"])
    app.dispatch(basket)

    basket.items.append("pear")

    assert [Basket(["apple"])] == messages(transport.sent)


def test_rejected_shows_what_was_rejected(app, transport):
    """It is neither acknowledged nor there any more."""
    app.dispatch(OrderPlaced(13))

    transport.reject(transport.receive(1, 0))

    assert [OrderPlaced(13)] == messages(transport.rejected)
    assert [] == transport.acknowledged
    assert 0 == transport.connection.count().in_flight


def test_what_was_received_shows_its_count(app, transport):
    """The envelopes are those that the worker had."""
    app.dispatch(OrderPlaced(13))

    transport.ack(transport.receive(1, 0))

    assert 1 == transport.acknowledged[0].last(stamps.Received).count


def test_moving_the_clock_ends_a_delay(app, transport):
    """A test need not wait for an hour to pass."""
    app.dispatch(OrderPlaced(13), stamps.Delay(3600))
    assert [] == transport.receive(1, 0)

    transport.clock.move(3600)

    assert [OrderPlaced(13)] == messages(transport.receive(1, 0))


def test_moving_the_clock_wakes_who_waits(app, transport):
    """A worker in another thread goes on at once."""
    app.dispatch(OrderPlaced(13), stamps.Delay(3600))

    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(transport.receive, 1, 60)
        transport.clock.move(3600)

        assert [OrderPlaced(13)] == messages(waiting.result(30))


def test_moving_the_clock_ends_a_lease():
    """What a worker has had for too long is delivered again."""
    app = make_app("in-memory://?lease=5m")
    transport = app.transport("later")
    app.dispatch(OrderPlaced(13))
    transport.receive(1, 0)

    transport.clock.move(299)
    assert [] == transport.receive(1, 0)
    transport.clock.move(1)

    assert 2 == transport.receive(1, 0)[0].last(stamps.Received).count


def test_messages_come_in_the_order_in_which_they_became_available(app, transport):
    """A delayed message stands where its delay ended, whenever it was sent."""
    app.dispatch(OrderPlaced(3), stamps.Delay(30))
    app.dispatch(OrderPlaced(2), stamps.Delay(20))
    app.dispatch(OrderPlaced(1))

    transport.clock.move(60)

    assert [1, 2, 3] == [message.order_id for message in messages(transport.receive(10, 0))]


def test_reset_begins_anew(app, transport):
    """Nothing is left of what a test before has sent."""
    app.dispatch(OrderPlaced(1))
    app.dispatch(OrderPlaced(2))
    transport.ack(transport.receive(1, 0))

    transport.reset()

    assert [] == transport.sent == transport.acknowledged == transport.rejected
    assert [] == transport.receive(10, 0)


def test_transports_of_one_name_share_a_queue():
    """The name is the host of the DSN, and belongs to the process, not to the app."""
    sender, receiver = make_app("in-memory://shared-by-two"), make_app("in-memory://shared-by-two")
    sender.types.register(OrderPlaced, "order")
    receiver.types.register(OrderPlaced, "order")

    sender.dispatch(OrderPlaced(13))

    assert [OrderPlaced(13)] == messages(receiver.transport("later").receive(1, 0))


def test_transports_without_a_name_share_nothing():
    """Each has a queue of its own: what one test leaves behind, the next one does not see."""
    app, other = make_app(also="in-memory://"), make_app()

    app.dispatch(OrderPlaced(13))

    assert [] == app.transport("also").receive(1, 0)
    assert [] == other.transport("later").receive(1, 0)


def test_what_a_broker_could_not_store_is_refused(app):
    """A message is written as on a broker, so a test finds out what cannot be."""
    with pytest.raises(SerializationError):
        app.dispatch(OrderPlaced(13, note=object()))


def test_without_serialization_the_object_itself_arrives():
    """With ``serialize=false`` and ``verify = false`` any object can be sent, and is received as it is."""
    app = make_app({"dsn": "in-memory://?serialize=false", "verify": False})
    transport = app.transport("later")
    order = OrderPlaced(13, note=object())

    app.dispatch(order, stamps.MessageId("0198-order"), stamps.Delay(0))
    [received] = transport.receive(1, 0)

    assert order is received.message
    assert order is transport.sent[0].message
    assert stamps.MessageId("0198-order") == received.last(stamps.MessageId)
    assert not received.has(stamps.Delay)


def test_what_could_not_be_written_is_refused_without_serialization_too():
    """So tests find what a broker would not get, unless they say that they do not want to know."""
    app = make_app("in-memory://?serialize=false")
    with pytest.raises(SerializationError):
        app.dispatch(OrderPlaced(13, note=object()))


def test_a_lease_must_be_longer_than_nothing():
    """A DSN with a lease of zero is refused, and says what is wanted."""
    with pytest.raises(ConfigurationError, match="Option 'lease' of in-memory:// must be at least"):
        make_app("in-memory://?lease=0")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system does not fork.")
def test_a_process_forked_amid_a_change_has_a_whole_queue(app, transport):
    """The child has a queue of its own, which no thread that exists only in the parent keeps locked."""
    app.dispatch(OrderPlaced(13))
    is_changing, over = threading.Event(), threading.Event()

    def change() -> None:
        with transport.connection._queue.changed:
            is_changing.set()
            over.wait(0.2)

    with ThreadPoolExecutor() as pool:
        changing = pool.submit(change)
        is_changing.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # Which ends it, should it hang.
            os._exit(len(transport.receive(10, 0)))
        over.set()
        changing.result()

    assert 1 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert [OrderPlaced(13)] == messages(transport.receive(10, 0))
