"""A connection of stomp.py: what is sent on it is answered within bounds, and it is lost once and for all."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any

from postbus.errors import ConnectionLost, TransportError
from postbus_stomp.options import Settings
from postbus_stomp.untyped import BaseConnection, Protocol12, StompException
from postbus_stomp.wire import Wire

LEAVING = 2.0
"""Seconds that a broker may take to take leave."""


class _Client(BaseConnection, Protocol12):  # type: ignore[misc]
    """What `stomp.Connection12` is, on a transport of ours."""

    def __init__(self, wire: Wire, heartbeat: int) -> None:
        BaseConnection.__init__(self, wire)
        Protocol12.__init__(self, wire, heartbeats=(heartbeat, heartbeat))


class Answers:
    """What the broker says to several frames: to each a receipt, or an error."""

    def __init__(self, ids: Iterable[str]) -> None:
        self.due = set(ids)
        self.errors: dict[str, str] = {}
        self.are_there = threading.Event()


class Link:
    """A connection to the broker, open until it is `lost`. Any thread may send and wait; what comes is told by one."""

    def __init__(
        self,
        settings: Settings,
        on_message: Callable[[Any], None] = lambda frame: None,
        on_loss: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._tell, self._tell_of_loss = on_message, on_loss
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._answers: dict[str, Answers] = {}
        self._login = Answers(["login"])
        self.lost: str | None = None
        """Why it is; None while it is not."""
        self._wire = Wire(settings)
        self._client = _Client(self._wire, int(settings.options.heartbeat * 1000))
        self._client.set_listener("postbus", self)
        self._open()

    def name(self) -> str:
        """Return a name for a frame, a subscription or a transaction, which no other has."""
        return str(next(self._numbers))

    def send(self, command: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send a frame; without a header ``receipt`` nobody hears what became of it."""
        if self.lost is not None:
            raise self.loss()
        try:
            self._client.send_frame(command, dict(headers), body)
        except (OSError, StompException, AttributeError) as error:  # Its socket may be None by now.
            self._lose(f"the connection broke ({type(error).__name__})")
            raise self.loss() from error

    def expect(self, ids: Iterable[str]) -> Answers:
        """Return what the answers to frames with these headers ``receipt`` are put into; to be called before."""
        answers = Answers(ids)
        with self._lock:
            self._answers |= dict.fromkeys(answers.due, answers)
        return answers

    def wait(self, answers: Answers) -> dict[str, str]:
        """Return which of the frames were refused, and why, once all are answered."""
        if not answers.are_there.wait(self._settings.options.confirm_timeout):
            self._lose(f"it did not answer within {self._settings.options.confirm_timeout:g} s")
        if answers.due:
            raise self.loss()
        return answers.errors

    def ask(self, command: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send a frame, and wait until the broker has done what it says."""
        receipt = self.name()
        answers = self.expect([receipt])
        self.send(command, {**headers, "receipt": receipt}, body)
        for reason in self.wait(answers).values():
            raise TransportError(f"{self._settings.where} does not do that: {reason}")

    def loss(self) -> ConnectionLost:
        """Return what to raise."""
        return ConnectionLost(f"{self._settings.where} cannot be reached: {self.lost}. Check that it runs.")

    def close(self) -> None:
        """Take leave, if somebody is there, and let go."""
        answers = self.expect(["leave"])
        try:
            if self.lost is None:
                self._client.send_frame("DISCONNECT", {"receipt": "leave"})
                answers.are_there.wait(LEAVING)
        except (OSError, StompException, AttributeError):
            pass
        self._lose("it was closed")

    def _open(self) -> None:
        options = self._settings.options
        try:
            self._wire.start()
        except OSError as error:
            reason = " ".join(str(error.strerror or error).split()).removesuffix(".") or type(error).__name__
            self.lost = reason
            raise self.loss() from error
        headers = {"accept-version": "1.2", "host": self._wire.current_host_and_port[0]}
        if options.user is not None and options.password is not None:
            headers |= {"login": options.user, "passcode": options.password}
        self.send("CONNECT", headers)
        if not self._login.are_there.wait(options.connect_timeout):
            self._lose(f"it did not answer within {options.connect_timeout:g} s")
        refusal = self._login.errors.get("login")
        if refusal is not None:
            self._lose("it refused the login")
            raise TransportError(f"{self._settings.where} lets nobody in like this: {refusal}")
        if self.lost is not None:
            raise self.loss()

    def _lose(self, why: str) -> None:
        with self._lock:
            is_news = self.lost is None
            self.lost = self.lost or why
            waiting = [self._login, *self._answers.values()]
        if not is_news:
            return
        # A shut socket ends whatever waits on it, in whichever thread; stomp.py's own closes it then.
        sock: socket.socket | None = self._wire.socket
        self._wire.running = False
        try:
            if sock is not None:
                sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        for answers in waiting:
            answers.are_there.set()
        self._tell_of_loss()

    # What stomp.py tells, in the one thread in which it reads.

    def on_connected(self, frame: Any) -> None:
        self._answer(self._login, "login")

    def on_message(self, frame: Any) -> None:
        self._tell(frame)

    def on_receipt(self, frame: Any) -> None:
        self._answer_to(frame.headers["receipt-id"])

    def on_error(self, frame: Any) -> None:
        said = " ".join(frame.headers.get("message", "").split()) or "an error without a word"
        said = said.removesuffix(".") + "."
        if not self._login.are_there.is_set():
            self._answer(self._login, "login", said)
        elif not self._answer_to(frame.headers.get("receipt-id", ""), said):
            self._lose(f"it said {said.removesuffix('.')!r}")

    def on_disconnected(self) -> None:
        self._lose("it closed the connection")

    def on_heartbeat_timeout(self) -> None:
        self._lose("it is silent")

    def _answer_to(self, id: str, error: str | None = None) -> bool:
        with self._lock:
            answers = self._answers.pop(id, None)
        if answers is not None:
            self._answer(answers, id, error)
        return answers is not None

    def _answer(self, answers: Answers, id: str, error: str | None = None) -> None:
        if error is not None:
            answers.errors[id] = error
        answers.due.discard(id)
        if not answers.due:
            answers.are_there.set()
