"""The client: connections to the broker, each opened when it is needed, and the channels on them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from postbus.errors import ConnectionLost, TransportError, describe
from postbus.tls import is_encrypted
from postbus_amqp.channel import Channel
from postbus_amqp.errors import Unheard, again, explain, text_of
from postbus_amqp.link import Link
from postbus_amqp.options import Settings
from postbus_amqp.parameters import parameters_for
from postbus_amqp.thread import Call, IoThread

logger = logging.getLogger("postbus")

Purpose = Literal["consume", "publish"]

RPC_TIMEOUT = 10.0
"""Seconds, where the options say 0, which is no limit in PHP."""

CLOSE_TIMEOUT = 2.0
"""Seconds that a broker has to say goodbye."""

# Every lost connection would be reported by pika as well, at length and as an error, while it is being mended.
_pika_logger = logging.getLogger("pika")
if _pika_logger.level == logging.NOTSET:
    _pika_logger.setLevel(logging.CRITICAL)


class Client:
    """Connections to one broker, and the thread that owns them; over for good as soon as one of them is lost.

    There is one for consuming and another for publishing: a broker that is short of memory stops reading
    from those that publish, and acknowledgements must get through then.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings = settings
        self.name = name
        self.on_blocked: list[Callable[[str | None], object]] = []
        """What is called with the reason when the broker stops reading what is published, with None when it goes on."""
        self._is_broken = False
        self._opening = threading.Lock()
        self._attempt: Any = None
        self._is_aborting = False
        self._links: dict[Purpose, Any] = {}
        self.thread = IoThread(name, settings, settings.options.rpc_timeout or RPC_TIMEOUT, self._break)

    # for other threads

    def connect(self, purpose: Purpose) -> None:
        """Open the connection for a purpose, if there is none."""
        if self.thread.error is not None:
            raise again(self.thread.error)
        if purpose in self._links:
            return
        with self._opening:
            if purpose not in self._links:
                parameters = parameters_for(self.settings, self.name, purpose)
                # pika's own limits end first; this one is for a name server that does not answer.
                patience = (2 * len(parameters) + 1) * parameters[0].socket_timeout
                try:
                    self.thread.ask(partial(self._connect, purpose, parameters), patience)
                except Unheard as error:
                    # One of several nodes that is only away may come back.
                    if self.settings.is_encrypted or not all(is_encrypted(*one) for one in self.settings.addresses):
                        raise
                    raise TransportError(
                        f"{self.settings} encrypts on this port. Write amqps://, or name the port that does not."
                    ) from error

    def channel(self, purpose: Purpose, on_close: Callable[[TransportError], object] | None = None) -> Channel:
        """Open a channel; ``on_close`` is called, in the thread, when it is closed."""
        self.connect(purpose)

        def start(call: Call) -> None:
            def closed(error: TransportError) -> None:
                call.fail(again(error))
                if on_close is not None:
                    on_close(error)

            channel: Channel = self.open(purpose, on_open=lambda: call.succeed(channel), on_close=closed)

        opened: Channel = self.thread.ask(start)
        return opened

    def send(self, purpose: Purpose, work: Callable[[], object]) -> None:
        """Let the thread do some work, and wait until what that wrote is sent."""
        self.thread.do(work, until=lambda: self._has_sent(purpose))

    def close(self) -> None:
        """Close the connections, what was handed over before included. Twice is fine."""
        if self.thread.is_current:
            return
        self.thread.post(self._close_links)
        if not self.thread.join(CLOSE_TIMEOUT):
            self.thread.post(self._abort_links)
            self.thread.join(CLOSE_TIMEOUT)

    # in the thread

    def open(self, purpose: Purpose, **callbacks: Any) -> Channel:
        """Begin to open a channel of a connection that there is; see `Channel` for the callbacks."""
        if self.thread.error is not None:
            raise again(self.thread.error)
        return Channel(self._links[purpose], self.thread, **callbacks)

    def _has_sent(self, purpose: Purpose) -> bool:
        link = self._links.get(purpose)
        return link is None or not link._get_write_buffer_size()

    def _break(self, error: Exception) -> None:
        """End everything after an error that nobody has foreseen; at the second one without ceremony."""
        logger.error("The connection to %s breaks: %s", self.settings, describe(error), exc_info=error)
        if self._is_broken:
            self.thread.stop()
            return
        self._is_broken = True
        self.thread.end(ConnectionLost(f"The connection to {self.settings} broke: {describe(error)}."))
        self._abort_links()

    def _connect(self, purpose: Purpose, parameters: Sequence[Any], call: Call) -> None:
        """Connect to the first address that answers; pika, given all of them, ends with one of an unknown name."""

        def opened(result: Any) -> None:
            self._attempt = None
            if isinstance(result, BaseException):
                error = explain(result, self.settings)
                if isinstance(error, ConnectionLost) and len(parameters) > 1 and self.thread.error is None:
                    self._connect(purpose, parameters[1:], call)
                    return
                call.fail(error)
                self._stop_if_over()
                return
            result.add_on_close_callback(self._on_link_closed)
            result.add_on_connection_blocked_callback(self._on_blocked)
            result.add_on_connection_unblocked_callback(self._on_unblocked)
            self._links[purpose] = result
            call.succeed()

        self._attempt = Link.create_connection(parameters[:1], opened, self.thread.loop)

    def _on_blocked(self, _: Any, answer: Any) -> None:
        for tell in self.on_blocked:
            tell(answer.method.reason or "it is short of memory or disk")

    def _on_unblocked(self, _: Any, __: Any) -> None:
        for tell in self.on_blocked:
            tell(None)

    def _on_link_closed(self, _: Any, error: Exception) -> None:
        self.thread.end(ConnectionLost(f"The connection to {self.settings} was lost: {text_of(error)}."))
        self._links = {purpose: link for purpose, link in self._links.items() if not link.is_closed}
        self._close_links()

    def _close_links(self) -> None:
        self.thread.end(ConnectionLost(f"The connection to {self.settings} is closed."))
        if self._attempt is not None and not self._is_aborting:
            self._is_aborting = True
            self._abort_attempt()
        for link in self._links.values():
            if link.is_open:
                link.close()
        self._stop_if_over()

    def _abort_attempt(self) -> None:
        connector = self._attempt._connector
        link = connector._amqp_conn if connector is not None else None
        if link is None:
            self._attempt.abort()
            return
        # pika 1.4 cannot abort it once the broker was greeted: an assertion fails.
        self._attempt._state = self._attempt._STATE_ABORTING
        connector._state = connector._STATE_ABORTING
        if not link.is_closing:
            link.close()

    def _stop_if_over(self) -> None:
        """Take no more turns once there is nothing left to close: neither a connection nor an attempt at one."""
        if self.thread.error is not None and not self._links and self._attempt is None:
            self.thread.stop()

    def _abort_links(self) -> None:
        for link in list(self._links.values()):
            link._adapter_disconnect_stream()
        if not self._links:
            self.thread.stop()
