"""Connections to the broker, their channels, and the thread that owns them.

pika's connections belong to one thread. Others hand it work and wait for its answers.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from postbus.errors import ConnectionLost, TransportError, describe
from postbus_amqp.options import Settings
from postbus_amqp.untyped import IOLoop, SelectConnection, exceptions, frame, pika, spec

logger = logging.getLogger("postbus")

Purpose = Literal["consume", "publish"]

CONNECT_TIMEOUT = RPC_TIMEOUT = 10.0
"""Seconds, where the options say 0, which is no limit in PHP."""

CLOSE_TIMEOUT = 2.0
"""Seconds that a broker has to say goodbye."""

EXTERNAL = 1
"""The number by which PHP's extension knows the method to log in with a certificate."""

ACCESS_REFUSED, CONNECTION_FORCED, NOT_FOUND, PRECONDITION_FAILED, NOT_ALLOWED = 403, 320, 404, 406, 530
"""Codes with which a broker closes a channel or a connection."""

FRAME_OVERHEAD = 8
"""Bytes of a frame that are not its payload."""

# Every lost connection would be reported by pika as well, at length and as an error, while it is being mended.
_pika_logger = logging.getLogger("pika")
if _pika_logger.level == logging.NOTSET:
    _pika_logger.setLevel(logging.CRITICAL)


class Refused(TransportError):
    """The broker closed a channel because of what was done on it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text if text.endswith(".") else f"{text}.")
        self.code = code


class Call:
    """What one thread asks of another, and waits for."""

    def __init__(self) -> None:
        self._pending = threading.Lock()
        self._pending.acquire()
        self._result: Any = None
        self._error: Exception | None = None

    def succeed(self, result: Any = None) -> None:
        """Hand over the result. Only the first answer counts."""
        if self._pending.locked():
            self._result = result
            self._pending.release()

    def fail(self, error: Exception) -> None:
        """Let the one who waits raise."""
        if self._pending.locked():
            self._error = error
            self._pending.release()

    def result(self, timeout: float) -> Any:
        """Wait for the answer; raise `TimeoutError` if it does not come in time."""
        if not self._pending.acquire(timeout=timeout):
            raise TimeoutError
        self._pending.release()
        if self._error is not None:
            raise self._error
        return self._result


class Client:
    """Connections to one broker, and the thread that owns them; over for good as soon as one of them is lost.

    There is one for consuming and another for publishing, each opened when it is needed: a broker that is
    short of memory stops reading from those that publish, and acknowledgements must get through then.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings = settings
        self.name = name
        self.error: ConnectionLost | None = None
        """Why it is over, once it is."""
        self.on_end: list[Callable[[ConnectionLost], object]] = []
        """What is called when it is over, in the thread."""
        self.on_turn: list[Callable[[], object]] = []
        """What is called whenever something may have arrived, in the thread."""
        self.on_blocked: list[Callable[[str | None], object]] = []
        """What is called with the reason when the broker stops reading what is published, with None when it goes on."""
        self._loop = IOLoop()
        self._work: deque[Callable[[], object]] = deque()
        self._is_signalled = False
        self._is_running = True
        self._is_broken = False
        self._calls: set[Call] = set()
        self._unsent: list[tuple[Channel, Call]] = []
        self._opening = threading.Lock()
        self._attempt: Any = None
        self._links: dict[Purpose, Any] = {}
        self._thread = threading.Thread(target=self._run, name=f"postbus {name}", daemon=True)
        self._thread.start()

    # for other threads

    def post(self, work: Callable[[], object]) -> None:
        """Let the thread do some work soon, and do not wait for it."""
        self._work.append(work)
        if not self._is_signalled:
            self._is_signalled = True
            self._loop.add_callback_threadsafe(_nothing)

    def ask(self, start: Callable[[Call], object], timeout: float) -> Any:
        """Let the thread start something that ends with an answer, and wait for that."""
        call = Call()
        self._calls.add(call)
        try:
            if self.error is not None:
                raise again(self.error)
            self.post(partial(self._begin, start, call))
            return call.result(timeout)
        except TimeoutError:
            raise ConnectionLost(f"{self.settings} did not answer within {timeout:g} s.") from None
        finally:
            self._calls.discard(call)

    def send(self, channel: Channel, work: Callable[[], object]) -> None:
        """Let the thread do some work, and wait until what that wrote on a channel is sent."""

        def start(call: Call) -> None:
            work()
            self._unsent.append((channel, call))

        self.ask(start, self.rpc_timeout)

    def channel(
        self,
        purpose: Purpose,
        on_close: Callable[[TransportError], object] | None = None,
        on_cancel: Callable[[str], object] | None = None,
    ) -> Channel:
        """Open a channel, and the connection for it if there is none.

        ``on_close`` is for when it is closed, ``on_cancel`` for when the broker ends a consumer; both in the thread.
        """
        with self._opening:
            if purpose not in self._links:
                parameters = _parameters(self.settings, self.name, purpose)
                # pika's own limits end first; this one is for a name server that does not answer.
                patience = (2 * len(parameters) + 1) * parameters[0].socket_timeout
                self.ask(partial(self._connect, purpose, parameters), patience)
        channel = Channel(self, on_close, on_cancel)
        self.ask(partial(channel.open, self._links[purpose]), self.rpc_timeout)
        return channel

    @property
    def rpc_timeout(self) -> float:
        """How long to wait for the answer to a command, in seconds."""
        return self.settings.options.rpc_timeout or RPC_TIMEOUT

    def close(self) -> None:
        """Close the connections, what was handed over before included. Twice is fine."""
        if threading.current_thread() is self._thread:
            return
        self.post(self._close_links)
        self._thread.join(CLOSE_TIMEOUT)
        if self._thread.is_alive():
            self.post(self._abort_links)
            self._thread.join(CLOSE_TIMEOUT)

    # in the thread

    def call_later(self, seconds: float, work: Callable[[], object]) -> None:
        """Do some work when so much time has passed."""
        self._loop.call_later(seconds, work)

    def _run(self) -> None:
        self._loop.activate_poller()
        try:
            while self._is_running:
                try:
                    self._take_turn()
                except Exception as error:  # A border: whatever goes wrong in here must reach those who wait for it.
                    self._break(error)
        finally:
            self._loop.deactivate_poller()
            self._loop.close()

    def _take_turn(self) -> None:
        self._loop.poll()
        self._loop.process_timeouts()
        self._is_signalled = False
        while self._work:
            self._work.popleft()()
        for tell in self.on_turn:
            tell()
        if self._unsent:
            self._unsent = [(channel, call) for channel, call in self._unsent if not _is_sent(channel, call)]

    def _begin(self, start: Callable[[Call], object], call: Call) -> None:
        try:
            start(call)
        except TransportError as error:
            call.fail(error)
        except Exception as error:  # A border: pika raises what it likes, and the thread must go on.
            lost = self.error
            call.fail(again(lost) if lost else TransportError(f"AMQP has no form for this: {describe(error)}."))

    def _break(self, error: Exception) -> None:
        """End everything after an error that nobody has foreseen; at the second one without ceremony."""
        logger.error("The connection to %s breaks: %s", self.settings, describe(error), exc_info=error)
        if self._is_broken:
            self._stop()
            return
        self._is_broken = True
        self._end(ConnectionLost(f"The connection to {self.settings} broke: {describe(error)}."))
        self._abort_links()

    def _connect(self, purpose: Purpose, parameters: list[Any], call: Call) -> None:
        def opened(result: Any) -> None:
            self._attempt = None
            if isinstance(result, BaseException):
                call.fail(self._explain(_innermost(result)))
                return
            result.add_on_close_callback(self._on_link_closed)
            result.add_on_connection_blocked_callback(self._on_blocked)
            result.add_on_connection_unblocked_callback(self._on_unblocked)
            self._links[purpose] = result
            call.succeed()

        self._attempt = SelectConnection.create_connection(parameters, opened, self._loop)

    def _on_blocked(self, _: Any, answer: Any) -> None:
        for tell in self.on_blocked:
            tell(answer.method.reason or "it is short of memory or disk")

    def _on_unblocked(self, _: Any, __: Any) -> None:
        for tell in self.on_blocked:
            tell(None)

    def _on_link_closed(self, _: Any, error: Exception) -> None:
        self._end(ConnectionLost(f"The connection to {self.settings} was lost: {_text(error)}."))
        self._links = {purpose: link for purpose, link in self._links.items() if not link.is_closed}
        self._close_links()

    def _close_links(self) -> None:
        self._end(ConnectionLost(f"The connection to {self.settings} is closed."))
        if self._attempt is not None:
            self._attempt.abort()
        for link in self._links.values():
            if link.is_open:
                link.close()
        if not self._links:
            self._stop()

    def _abort_links(self) -> None:
        for link in list(self._links.values()):
            link._adapter_disconnect_stream()
        if not self._links:
            self._stop()

    def _stop(self) -> None:
        self._is_running = False

    def _end(self, error: ConnectionLost) -> None:
        if self.error is not None:
            return
        self.error = error
        for tell in self.on_end:
            tell(error)
        for call in list(self._calls):
            call.fail(again(error))

    def _explain(self, cause: Any) -> TransportError:
        """Return why a connection could not be opened: lost, or refused for a reason that stays."""
        if (refusal := _refusal_in(cause)) is not None:
            return TransportError(
                f"{self.settings} refused the user {self.settings.options.user!r}: {refusal} "
                "Look at user, password and vhost in the DSN."
            )
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TransportError(
                f"The certificate of {self.settings} is not trusted: {cause.verify_message}. "
                "Name the file or folder of its CA as option 'cacert'."
            )
        return ConnectionLost(f"Cannot connect to {self.settings}: {_text(cause)}.")


class Channel:
    """A channel of a connection: the unit that the broker closes when something that was done on it was wrong.

    `ask` is for other threads; everything else belongs to the thread of the client.
    """

    def __init__(
        self,
        client: Client,
        on_close: Callable[[TransportError], object] | None,
        on_cancel: Callable[[str], object] | None,
    ) -> None:
        self.error: TransportError | None = None
        """Why it is closed, once it is."""
        self._client = client
        self._on_close = on_close
        self._on_cancel = on_cancel
        self._raw: Any = None
        self._connection: Any = None
        self._call: Call | None = None

    def ask(self, command: str, **arguments: Any) -> Any:
        """Give a command of AMQP, such as ``queue_declare``, and return what the broker answers."""

        def start(call: Call) -> None:
            if self.error is not None:
                raise again(self.error)
            self._call = call
            getattr(self._raw, command)(**arguments, callback=call.succeed)

        return self._client.ask(start, self._client.rpc_timeout).method

    def confirm(self, on_confirm: Callable[[bool, int, bool], object], on_return: Callable[..., object]) -> None:
        """Have the broker confirm what is published here, and return what it cannot route; from another thread."""

        def start(call: Call) -> None:
            def confirmed(answer: Any) -> None:
                method = answer.method
                on_confirm(isinstance(method, spec.Basic.Ack), method.delivery_tag, method.multiple)

            self._raw.add_on_return_callback(on_return)
            self._raw.confirm_delivery(confirmed, call.succeed)

        self._client.ask(start, self._client.rpc_timeout)

    def close(self) -> None:
        """Close it; from any thread, and without waiting."""
        self._client.post(lambda: self._raw.close() if self._raw.is_open else None)

    def open(self, connection: Any, call: Call) -> None:
        """Open it."""
        self._call = call
        self._connection = connection
        self._raw = connection.channel(on_open_callback=call.succeed)
        self._raw.add_on_close_callback(self._closed)
        self._raw.add_on_cancel_callback(self._cancelled)

    def consume(
        self, queue: str, tag: str, prefetch: int, on_delivery: Callable[..., object], on_begun: Callable[[Any], object]
    ) -> None:
        """Have messages of a queue sent here, so many before the first is settled."""
        if self.error is not None:
            return
        self._raw.basic_qos(prefetch_count=prefetch, callback=_ignore)
        self._raw.basic_consume(queue, on_delivery, consumer_tag=tag, callback=on_begun)

    def cancel(self, tag: str, on_end: Callable[[Any], object] | None = None) -> None:
        """Have no more messages sent; those that are on their way still come, before ``on_end`` is called."""
        if self.error is not None:
            return
        self._raw.basic_cancel(tag, callback=on_end or _ignore)
        # pika would give back by itself what comes from now on.
        self._raw._cancelled.discard(tag)

    def settle(self, how: Literal["ack", "reject", "requeue"], up_to: int | None, alone: Sequence[int]) -> None:
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

        pika's own methods send frame by frame, which is a system call each, and in the next turn of the loop.
        """
        if self.error is None:
            self._connection._output_marshaled_frames([data])
            self._connection._transport._on_socket_writable()

    @property
    def is_sent(self) -> bool:
        """Whether everything that was written, here or on another channel of this connection, is sent."""
        return self.error is not None or not self._connection._get_write_buffer_size()

    @property
    def number(self) -> int:
        """Its number, which stands in every frame."""
        number: int = self._raw.channel_number
        return number

    @property
    def largest_frame(self) -> int:
        """How many bytes fit into a frame."""
        largest: int = self._connection.params.frame_max
        return largest - FRAME_OVERHEAD

    def _cancelled(self, answer: Any) -> None:
        if self._on_cancel is not None:
            self._on_cancel(answer.method.consumer_tag)

    def _closed(self, _: Any, reason: Any) -> None:
        if self._client.error is not None:
            self.error = again(self._client.error)
        elif isinstance(reason, exceptions.ChannelClosedByBroker | exceptions.ConnectionClosedByBroker) and (
            reason.reply_code != CONNECTION_FORCED
        ):
            self.error = Refused(reason.reply_code, reason.reply_text)
        else:
            self.error = ConnectionLost(f"The connection to {self._client.settings} was lost: {_text(reason)}.")
        if self._call is not None:
            self._call.fail(again(self.error))
        if self._on_close is not None:
            self._on_close(self.error)


def _parameters(settings: Settings, name: str, purpose: Purpose) -> list[Any]:
    """Return how to connect, for each of the broker's addresses."""
    options = settings.options
    patience = options.connect_timeout or CONNECT_TIMEOUT
    shown = options.connection_name or f"{name} {socket.gethostname()}:{os.getpid()}"
    parameters: list[Any] = []
    for host, port in settings.addresses:
        one = pika.ConnectionParameters(
            host=host,
            port=port,
            virtual_host=options.vhost,
            credentials=(
                pika.credentials.ExternalCredentials()
                if options.sasl_method == EXTERNAL
                else pika.PlainCredentials(options.user, options.password)
            ),
            heartbeat=options.heartbeat,
            socket_timeout=patience,
            stack_timeout=patience,
            client_properties={"connection_name": f"{shown} ({purpose})", "product": "Postbus"},
        )
        if options.frame_max:
            one.frame_max = options.frame_max
        if options.channel_max:
            one.channel_max = options.channel_max
        if settings.is_encrypted:
            one.ssl_options = pika.SSLOptions(_tls(settings), host)
        parameters.append(one)
    return parameters


def _tls(settings: Settings) -> ssl.SSLContext:
    options = settings.options
    try:
        is_folder = options.cacert is not None and Path(options.cacert).is_dir()
        context = ssl.create_default_context(
            cafile=None if is_folder else options.cacert, capath=options.cacert if is_folder else None
        )
        if options.cert is not None:
            context.load_cert_chain(options.cert, options.key)
    except OSError as error:
        raise TransportError(
            f"The certificates for {settings} cannot be read: {error.strerror or error}. "
            "Look at the options 'cacert', 'cert' and 'key'."
        ) from error
    if not options.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _is_sent(channel: Channel, call: Call) -> bool:
    if channel.is_sent:
        call.succeed()
    return channel.is_sent


def again(error: TransportError) -> TransportError:
    """Return the same error anew, since each one that is raised gets a traceback of its own."""
    return Refused(error.code, str(error)) if isinstance(error, Refused) else type(error)(str(error))


def _innermost(error: Any) -> Any:
    """Return what an error of pika's wraps."""
    while True:
        inner = getattr(error, "exceptions", None) or [getattr(error, "exception", None)]
        if not isinstance(inner[-1], BaseException):
            return error
        error = inner[-1]


def _refusal_in(error: Any) -> str | None:
    """Return what the broker said if it let nobody in, which it will not the next time either; else None."""
    told = re.search(r"\((\d+)\) ['\"](.*)['\"]", repr(error))
    if told is None or int(told[1]) not in (ACCESS_REFUSED, NOT_ALLOWED) or "limit" in told[2]:
        return None
    return told[2] if told[2].endswith(".") else f"{told[2]}."


def _text(error: BaseException) -> str:
    """Return what an error says, in one line without a full stop."""
    text = getattr(error, "reply_text", None) or str(error) or type(error).__name__
    return " ".join(str(text).split()).rstrip(".")


def _nothing() -> None:
    """Do nothing: to wake the thread is all."""


def _ignore(_: Any) -> None:
    """Pay no heed to an answer."""
