"""The recording transport, for the tests of who sends messages."""

from dataclasses import dataclass

from postbus import Postbus, stamps
from postbus.envelope import Envelope
from postbus.testing import RecordingTransport
from postbus.transport import Receiver, Sender


@dataclass(frozen=True)
class OrderPlaced:
    order_id: int


def test_it_keeps_what_is_sent():
    """An app sends to it as to any transport, and gets an id for each message."""
    recording = RecordingTransport("orders")
    app = Postbus(transports={"orders": recording}, routing={OrderPlaced: "orders"})

    first, second = app.dispatch(OrderPlaced(1)), app.dispatch(OrderPlaced(2), stamps.Delay(60))

    assert [OrderPlaced(1), OrderPlaced(2)] == recording.messages
    assert stamps.Delay(60) == recording.sent[1].last(stamps.Delay)
    assert ["1", "2"] == [envelope.last(stamps.Sent).id for envelope in (first, second)]


def test_it_forgets_when_told_to():
    """One that several tests share begins anew."""
    recording = RecordingTransport()
    recording.send([Envelope(OrderPlaced(1))])

    recording.reset()

    assert [] == recording.sent == recording.messages


def test_it_delivers_nothing():
    """It is a sender, and cannot be consumed."""
    assert isinstance(RecordingTransport(), Sender)
    assert not isinstance(RecordingTransport(), Receiver)
