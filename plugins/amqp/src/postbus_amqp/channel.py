"""Channels: what commands are given on, and messages go through."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal

from postbus.errors import ConnectionLost, TransportError
from postbus_amqp.errors import CONNECTION_FORCED, Refused, again, text_of
from postbus_amqp.thread import Call, IoThread
from postbus_amqp.untyped import exceptions, frame, spec

FRAME_OVERHEAD = 8
"""Bytes of a frame that are not its payload."""

Settlement = Literal["ack", "reject", "requeue"]


class Channel:
    """A channel of a connection: the unit that the broker closes when something that was done on it was wrong.

    ``on_open`` is called when it is open, ``on_close`` when it is closed, ``on_cancel`` when the broker ends a
    consumer. `ask`, `confirm` and `close` are for other threads; everything else belongs to the thread.
    """

    def __init__(
        self,
        connection: Any,
        thread: IoThread,
        *,
        on_open: Callable[[], object],
        on_close: Callable[[TransportError], object],
        on_cancel: Callable[[], object] | None = None,
    ) -> None:
        self.error: TransportError | None = None
        """Why it is closed, once it is."""
        self._connection = connection
        self._thread = thread
        self._on_open = on_open
        self._on_close = on_close
        self._on_cancel = on_cancel
        self._call: Call | None = None
        try:
            self._raw: Any = connection.channel(on_open_callback=self._opened)
        except exceptions.NoFreeChannels as error:
            raise TransportError("The connection has no channel left. Set channel_max to a higher number.") from error
        self._raw.add_on_close_callback(self._closed)
        self._raw.add_on_cancel_callback(self._cancelled)

    def ask(self, command: str, **arguments: Any) -> Any:
        """Give a command of AMQP, such as ``queue_declare``, and return what the broker answers."""

        def start(call: Call) -> None:
            if self.error is not None:
                raise again(self.error)
            self._call = call
            getattr(self._raw, command)(**arguments, callback=call.succeed)

        return self._thread.ask(start).method

    def confirm(self, on_confirm: Callable[[bool, int, bool], object], on_return: Callable[..., object]) -> None:
        """Have the broker confirm what is published here, and return what it cannot route."""

        def start(call: Call) -> None:
            def confirmed(answer: Any) -> None:
                method = answer.method
                on_confirm(isinstance(method, spec.Basic.Ack), method.delivery_tag, method.multiple)

            self._raw.add_on_return_callback(on_return)
            self._raw.confirm_delivery(confirmed, call.succeed)

        self._thread.ask(start)

    def close(self) -> None:
        """Close it, without waiting."""
        self._thread.post(lambda: self._raw.close() if self._raw.is_open else None)

    def consume(
        self, queue: str, tag: str, prefetch: int, on_delivery: Callable[..., object], on_begun: Callable[[Any], object]
    ) -> None:
        """Have messages of a queue sent here, so many before the first is settled."""
        if self.error is not None:
            return
        self._raw.basic_qos(prefetch_count=prefetch, callback=_ignore)
        self._raw.basic_consume(queue, on_delivery, consumer_tag=tag, callback=on_begun)

    def cancel(self, tag: str, on_end: Callable[[Any], object]) -> None:
        """Have no more messages sent; those that are on their way still come, before ``on_end`` is called."""
        if self.error is not None:
            return
        self._raw.basic_cancel(tag, callback=on_end)
        # pika would give back by itself what comes from now on.
        self._raw._cancelled.discard(tag)

    def await_all(self, on_end: Callable[[Any], object]) -> None:
        """Call back when the broker has done all that it was told here; not if the channel is closed before."""
        if self._raw.is_open:
            self._raw.basic_qos(callback=on_end)

    def settle(self, how: Settlement, up_to: int | None, alone: Sequence[int]) -> None:
        """Settle every delivery up to one, and some others."""
        frames = [(up_to, True)] if up_to is not None else []
        frames += [(number, False) for number in alone]

        def method(number: int, multiple: bool) -> Any:
            # Not basic.reject, by which newer brokers count a delivery as failed.
            return (
                spec.Basic.Ack(number, multiple)
                if how == "ack"
                else spec.Basic.Nack(number, multiple, how == "requeue")
            )

        self.write(b"".join(frame.Method(self.number, method(*one)).marshal() for one in frames))

    def write(self, data: bytes) -> None:
        """Send frames that are encoded already, in one piece and at once.

        pika's own methods send frame by frame, which is a system call each, and in the next turn of the loop,
        for which they have the socket watched, and then not watched any more.
        """
        if self.error is not None:
            return
        connection, sent = self._connection, 0
        socket = connection._transport._sock
        if socket is not None and not connection._get_write_buffer_size():
            with suppress(OSError):  # pika will meet it again, and knows what to do.
                sent = socket.send(data)
        if sent < len(data):
            connection._output_marshaled_frames([data[sent:]])

    @property
    def number(self) -> int:
        """Its number, which stands in every frame."""
        number: int = self._raw.channel_number
        return number

    @property
    def server_version(self) -> tuple[int, ...]:
        """The version that the server announces, such as (3, 10, 8); nothing if it is none of RabbitMQ's."""
        announced: dict[str, Any] = self._connection.server_properties or {}
        if announced.get("product") != "RabbitMQ":
            return ()
        return tuple(int(part) for part in re.findall(r"\d+", str(announced.get("version")))[:3])

    @property
    def largest_frame(self) -> int:
        """How many bytes fit into a frame."""
        largest: int = self._connection.params.frame_max
        return largest - FRAME_OVERHEAD

    def _opened(self, _: Any) -> None:
        self._on_open()

    def _cancelled(self, _: Any) -> None:
        if self._on_cancel is not None:
            self._on_cancel()

    def _closed(self, _: Any, reason: Any) -> None:
        if self._thread.error is not None:
            self.error = again(self._thread.error)
        elif isinstance(reason, exceptions.ChannelClosedByBroker | exceptions.ConnectionClosedByBroker) and (
            reason.reply_code != CONNECTION_FORCED
        ):
            self.error = Refused(reason.reply_code, reason.reply_text)
        else:
            self.error = ConnectionLost(f"The connection to {self._thread.peer} was lost: {text_of(reason)}.")
        if self._call is not None:
            self._call.fail(again(self.error))
        self._on_close(self.error)


def _ignore(_: Any) -> None:
    """Pay no heed to an answer."""
