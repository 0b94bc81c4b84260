"""The server: where it is, and how links to it are opened."""

from __future__ import annotations

import socket

from postbus_beanstalkd.errors import translate
from postbus_beanstalkd.link import Link
from postbus_beanstalkd.options import Address, BeanstalkdOptions


class Server:
    """A server of beanstalkd, as a DSN names it."""

    def __init__(self, address: Address, options: BeanstalkdOptions) -> None:
        self._address = address
        self._options = options

    def __str__(self) -> str:
        return f"beanstalkd at {self._address}"

    def open(self) -> Link:
        """Return a new link, which belongs to the caller; raise `ConnectionLost`."""
        try:
            sock = self._connect()
            sock.settimeout(self._options.read_timeout or None)
            try:
                return Link(sock, str(self))
            except OSError:  # It is cut already: the client asks whom it is connected to.
                sock.close()
                raise
        except (OSError, UnicodeError) as error:  # A host that cannot be a name is the latter.
            raise translate(error if isinstance(error, OSError) else OSError(str(error)), str(self)) from error

    def _connect(self) -> socket.socket:
        timeout = self._options.connect_timeout or None
        if self._address.socket is not None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(timeout)
                sock.connect(self._address.socket)
            except BaseException:
                sock.close()
                raise
            return sock
        sock = socket.create_connection((self._address.host, self._address.port), timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return sock
