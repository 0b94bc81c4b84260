"""What stomp.py reads from and writes to: a socket, behind which TLS is done by a thread of its own.

stomp.py would do TLS itself. But it then neither sees that the broker has closed the connection, nor closes one itself
while the broker is silent; and a socket that takes no more it waits for without end, holding up its own heartbeats.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import ssl
import struct
import threading
from pathlib import Path

from postbus_stomp.options import Settings
from postbus_stomp.untyped import Transport

CHUNK = 65536


class Wire(Transport):  # type: ignore[misc]
    """A transport in the sense of stomp.py, on the first host of a DSN that answers; tried once."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            [(host.name, host.port) for host in settings.hosts],
            prefer_localhost=False,
            try_loopback_connect=False,
            auto_decode=False,
            recv_bytes=CHUNK,
        )
        self._settings = settings

    def is_connected(self) -> bool:
        """Tell whether one is logged in; stomp.py would ask the socket for a port, which not every one has."""
        return bool(self.connected)

    def attempt_connection(self) -> None:
        """Connect, as stomp.py asks for at the start; it raises `OSError` if no host answers."""
        self.connection_error = False
        failure = OSError("There is no host.")
        for host in self._settings.hosts:
            try:
                self.socket = self._connect(host.name, host.port or 0)
            except OSError as error:
                failure = error
                continue
            self.current_host_and_port = (host.name, host.port)
            return
        raise failure

    def _connect(self, host: str, port: int) -> socket.socket:
        options = self._settings.options
        plain = socket.create_connection((host, port), options.connect_timeout)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self._settings.is_encrypted:
                plain.settimeout(None)
                _limit(plain, options.confirm_timeout)
                return plain
            encrypted = _context(self._settings).wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
        near, far = socket.socketpair()
        _limit(near, options.confirm_timeout)
        threading.Thread(target=_pass_on, args=(encrypted, far), name=f"stomp-tls-{port}", daemon=True).start()
        return near


def _limit(sock: socket.socket, seconds: float) -> None:
    """Let no write wait for longer. A timeout of Python's would be one for reading too."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), int(seconds % 1 * 1e6)))


def _context(settings: Settings) -> ssl.SSLContext:
    options = settings.options
    context = ssl.create_default_context()
    if not options.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.cacert is not None:
        # Not beside the system's, but instead of them.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = options.verify
        context.verify_mode = ssl.CERT_REQUIRED if options.verify else ssl.CERT_NONE
        is_folder = Path(options.cacert).is_dir()
        context.load_verify_locations(**{"capath" if is_folder else "cafile": options.cacert})
    if options.cert is not None:
        context.load_cert_chain(options.cert, options.key)
    return context


def _pass_on(encrypted: ssl.SSLSocket, far: socket.socket) -> None:
    """Carry bytes between the two until one of them ends; nobody else touches either."""
    with encrypted, far, selectors.DefaultSelector() as selector:
        for one in (encrypted, far):
            one.setblocking(False)
            selector.register(one, selectors.EVENT_READ)
        to_broker, to_us = bytearray(), bytearray()
        try:
            while True:
                is_dry = _read(encrypted, to_us) if len(to_us) < CHUNK else True
                if len(to_broker) < CHUNK:
                    _read(far, to_broker)
                _write(encrypted, to_broker)
                _write(far, to_us)
                # What OpenSSL has decrypted already, the selector does not see.
                selector.modify(encrypted, _wanted(to_us, to_broker))
                selector.modify(far, _wanted(to_broker, to_us))
                selector.select(None if is_dry else 0)
        except OSError:
            pass  # Each side finds its own end closed.


def _wanted(read: bytearray, written: bytearray) -> int:
    events = selectors.EVENT_READ if len(read) < CHUNK else 0
    return events | (selectors.EVENT_WRITE if written else 0) or selectors.EVENT_WRITE


def _read(source: socket.socket, into: bytearray) -> bool:
    """Read what is there; return whether that was all. An end raises `OSError`."""
    try:
        data = source.recv(CHUNK)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return True
    if not data:
        raise ConnectionResetError
    into += data
    return False


def _write(target: socket.socket, data: bytearray) -> None:
    """Write as much as is taken."""
    if data:
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            del data[: target.send(data)]


class _NoSecrets(logging.Filter):
    """Keeps stomp.py from logging the frame with which one logs in."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "passcode" not in record.getMessage()


logging.getLogger("stomp.py").addFilter(_NoSecrets())
