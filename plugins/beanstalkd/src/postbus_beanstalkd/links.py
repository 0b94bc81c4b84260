"""All links of a connection: which are there, which hold nothing, and which are given up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import greenstalk

from postbus.errors import ConnectionLost
from postbus_beanstalkd.link import Link
from postbus_beanstalkd.server import Server

T = TypeVar("T")

MOST = 50
"""How many links jobs are reserved through, at most; each of them but one holds some."""

SPARE = 2
"""How many links that hold nothing are kept for the next wait."""


class Links:
    """The links that jobs are reserved through, and the one for all else. Safe to use from several threads."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._takers: list[Link] = []
        self._talker: Link | None = None
        self.closed = False

    def __str__(self) -> str:
        return str(self._server)

    @property
    def takers(self) -> list[Link]:
        """Those that jobs are reserved through."""
        return self._takers.copy()

    @property
    def talker(self) -> Link:
        """The one that no job is reserved through: it puts, and asks about what others hold."""
        with self._lock:
            if self._talker is None or self._talker.was_dropped():
                if self._talker is not None:
                    self._talker.close()
                self._talker = self._open()
            return self._talker

    def ask_apart(self, question: Callable[[greenstalk.Client[bytes]], T]) -> T:
        """Return what a client says on a link of its own."""
        link = self._open()
        try:
            return link.ask(question)
        finally:
            link.close()

    def empty(self, first: Link | None) -> Link | None:
        """Return a link that holds nothing, this one if it does not; a new one if there is none, up to a limit."""
        free = [link for link in self.takers if not link.held and not link.was_dropped()]
        free.sort(key=lambda link: link is not first)
        for link in free[1 + SPARE :]:
            self.drop(link)
        if free:
            return free[0]
        return self.add() if len(self.takers) < MOST else None

    def add(self) -> Link:
        """Return a new link that jobs may be reserved through."""
        for link in self.takers:
            if link.lost:
                self.drop(link)
        link = self._open()
        with self._lock:
            self._takers.append(link)
        if self.closed:
            self.drop(link)
        return link

    def drop(self, link: Link) -> None:
        """Close a link; what it holds goes back."""
        link.close()
        with self._lock:
            if link in self._takers:
                self._takers.remove(link)

    def close(self) -> None:
        """Close all of them."""
        self.closed = True
        with self._lock:
            links = [*self._takers, *([] if self._talker is None else [self._talker])]
            self._takers.clear()
        for link in links:
            link.close()

    def _open(self) -> Link:
        if self.closed:
            raise ConnectionLost(f"The connection to {self} is closed")
        return self._server.open()
