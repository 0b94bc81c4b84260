"""A link to the server: one exchange of commands and replies at a time, and the jobs that were reserved through it."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from itertools import islice
from typing import Any, NoReturn, TypeVar

import greenstalk
from msgspec import Struct

from postbus.errors import ConnectionLost
from postbus_beanstalkd.errors import ANSWERS, BROKEN, translate
from postbus_beanstalkd.reader import Reader

T = TypeVar("T")

CHUNK = 100
"""How many jobs are put at once."""

SHORT = 1.0
"""Seconds of idleness after which a link is looked at before it is used."""

TAKE = b"reserve-with-timeout 0\r\n"
LEAST_PUT = len(b"DRAINING\r\n")
LEAST_TAKEN = len(b"TIMED_OUT\r\n")
"""The fewest bytes of an answer."""

BURIED = b"BURIED\r\n"
RELEASED = b"RELEASED\r\n"

NOT_FOUND = b"NOT_FOUND\r\n"
NOTHING = (b"TIMED_OUT\r\n", b"DEADLINE_SOON\r\n", NOT_FOUND)
"""What a server says that has no such job; the second one while one of ours is in the last second of its ttr."""


class Job(Struct, eq=False, gc=False):
    """The tag of a delivery: a job that was reserved, through a link that alone can settle it."""

    link: Any
    id: int
    priority: int
    ttr: int
    until: float
    """When it is certainly nobody's any more, on the monotonic clock, unless it is kept alive."""


class JobStats(Struct, frozen=True):
    """What the server tells of a job."""

    tube: str
    priority: int
    ttr: int
    delay: int
    reserves: int
    releases: int
    kicks: int


class Link:
    """One connection to the server.

    After an exchange that failed half-way, or was answered by something else, it is lost: the next reply would
    answer what was asked before. The server gives all its jobs back when it is closed.
    """

    def __init__(self, sock: socket.socket, where: str) -> None:
        self._sock = sock
        self._client = greenstalk.Client(sock, encoding=None)
        # The client's own methods wait for one answer at a time; both read the same answers.
        self._client._reader.close()
        self._reader = Reader(sock)
        self._client._reader = self._reader  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
        self._where = where
        self._lock = threading.RLock()
        self._used_at = time.monotonic()
        self._tube = greenstalk.DEFAULT_TUBE
        self._watched = {greenstalk.DEFAULT_TUBE}
        self.held: dict[int, Job] = {}
        self.lost = False

    @contextmanager
    def talk(self, *, reads_all: bool = False) -> Generator[greenstalk.Client[bytes]]:
        """Have the link to oneself; what goes wrong in there costs the link.

        An answer does not, if all are read before it is looked at; else there are others behind it.
        """
        with self._lock:
            if self.lost:
                raise ConnectionLost(f"The connection to {self._where} is closed")
            try:
                yield self._client
            except BROKEN as error:
                if reads_all and isinstance(error, ANSWERS):
                    raise
                self.close()
                raise translate(error, self._where) from error
            except BaseException:
                # There may be a reply under way, which must not be taken for that to the next command.
                self.close()
                raise
            finally:
                self._used_at = time.monotonic()

    def alone(self) -> AbstractContextManager[object]:
        """Return what keeps all others from the link while it is held."""
        return self._lock

    @contextmanager
    def unless_busy(self) -> Generator[bool]:
        """Have the link to oneself, if nobody else has it now; say whether it is so."""
        is_mine = self._lock.acquire(blocking=False)
        try:
            yield is_mine
        finally:
            if is_mine:
                self._lock.release()

    @cached_property
    def server(self) -> str:
        """What the process of the server calls itself: another one at each start."""
        return str(self.ask(lambda client: client.stats())["id"])

    def ask(self, question: Callable[[greenstalk.Client[bytes]], T]) -> T:
        """Return what the client does; raise errors as a connection does, but for `NotFoundError`."""
        try:
            with self.talk(reads_all=True) as client:
                return question(client)
        except greenstalk.NotFoundError:
            raise
        except ANSWERS as error:
            raise translate(error, self._where) from error

    def reserve(self, number: int, read: Callable[[int, bytes], T]) -> list[T]:
        """Reserve up to so many jobs that are ready, and return what ``read`` makes of each id and its data."""
        taken: list[T] = []
        with self.talk():
            self._send(TAKE * number, least=number * LEAST_TAKEN)
            for _ in range(number):
                job = self._read_reserved()
                if job is not None:
                    taken.append(read(*job))
        return taken

    def reserve_these(self, ids: Sequence[int]) -> list[bool]:
        """Reserve the jobs with these ids, whatever their state; return for each whether it could be."""
        with self.talk():
            self._sock.sendall(b"".join([b"reserve-job %d\r\n" % id for id in ids]))
            return [self._read_reserved() is not None for _ in ids]

    def hold(self, id: int, priority: int, ttr: int, since: float) -> Job:
        """Note that a job was reserved; return what it is known by from now on."""
        job = self.held[id] = Job(self, id, priority, ttr, since + ttr)
        return job

    def rename(self, job: Job, id: int) -> None:
        """Note that a job that is held has another id now."""
        del self.held[job.id]
        job.id = id
        self.held[id] = job

    def begin_to_wait(self, seconds: int) -> None:
        """Ask for a job, which may take so many seconds."""
        with self.talk():
            self._send(b"reserve-with-timeout %d\r\n" % seconds, least=0)

    def end_to_wait(self) -> tuple[int, bytes] | None:
        """Return the id and the data of the job that was asked for; None if there is none."""
        with self.talk():
            return self._read_reserved()

    def give_up_waiting(self) -> tuple[int, bytes] | None:
        """End the wait now, and the link with it; as `end_to_wait`. The server gives back what it returns."""
        with self.talk():
            # It answers who will send nothing more, and hears nothing else of who waits.
            self._sock.shutdown(socket.SHUT_WR)
            try:
                return self._read_reserved()
            finally:
                self.close()

    def settle(self, commands: Sequence[bytes], done: bytes) -> list[bool]:
        """Send commands about jobs; return for each whether it was done. It is not, where the job is not ours."""
        least = len(BURIED) if done == RELEASED else len(done)

        def settle(_: greenstalk.Client[bytes]) -> list[bool]:
            self._send(b"".join(commands), least=len(commands) * least)
            replies = [self._reader.readline() for _ in commands]
            for reply in set(replies) - {done, NOT_FOUND}:
                self._refuse(reply)
            return [reply == done for reply in replies]

        return self.ask(settle)

    def put(self, commands: Iterable[bytes], replies: list[int | Exception]) -> None:
        """Send commands that each put a job; add to ``replies`` an id for each, or the answer in place of one.

        The server works on the first while later ones are being made.
        """
        with self.talk():
            number, remaining = 0, iter(commands)
            while some := list(islice(remaining, CHUNK)):
                self._sock.sendall(b"".join(some))
                number += len(some)
            self._reader.expect(number * LEAST_PUT)
            for _ in range(number):
                replies.append(self._read_inserted())  # noqa: PERF401 - what came before an exception counts

    def stats_of(self, ids: Sequence[int]) -> list[JobStats | None]:
        """Return what the server tells of each job; None of one that is not there."""
        with self.talk():
            self._send(b"".join([b"stats-job %d\r\n" % id for id in ids]), least=len(ids) * len(NOT_FOUND))
            return [self._read_stats() for _ in ids]

    def use(self, tube: str) -> None:
        """Let what is put go into a tube."""
        if tube != self._tube:
            self.ask(lambda client: client.use(tube))
            self._tube = tube

    def watch(self, tubes: Sequence[str]) -> None:
        """Let what is reserved come from these tubes."""
        wanted = set(tubes)
        if wanted == self._watched:
            return
        commands = [b"watch %b\r\n" % tube.encode() for tube in wanted - self._watched]
        commands += [b"ignore %b\r\n" % tube.encode() for tube in self._watched - wanted]
        with self.talk():
            self._sock.sendall(b"".join(commands))
            for _ in commands:
                reply = self._reader.readline()
                if not reply.startswith(b"WATCHING "):
                    self._refuse(reply)
        self._watched = wanted

    def is_readable(self, timeout: float) -> bool:
        """Wait until there is something to read, be it the end; say whether there is."""
        poll = select.poll()
        try:
            poll.register(self._sock, select.POLLIN)
            return bool(poll.poll(max(0.0, timeout) * 1000))
        except (OSError, ValueError):  # It was closed meanwhile.
            return True

    def was_dropped(self) -> bool:
        """Tell whether a link that was idle for a while has been closed by the server, or by what is between."""
        if self.lost or time.monotonic() - self._used_at <= SHORT:
            return self.lost
        with self.unless_busy() as is_mine:  # What another thread is asking for may be there to be read.
            return is_mine and self.is_readable(0)

    def interrupt(self) -> None:
        """Let whoever waits for a reply find the connection lost. From another thread."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it. What was reserved through it is ready again."""
        self.lost = True
        self.interrupt()
        with self._lock:
            self.held.clear()
            with suppress(OSError):
                self._client.close()

    def _send(self, commands: bytes, *, least: int) -> None:
        """Send commands whose answers have so many bytes at least."""
        self._sock.sendall(commands)
        self._reader.expect(least)

    def _read_reserved(self) -> tuple[int, bytes] | None:
        line = self._reader.readline()
        if line in NOTHING:
            return None
        if not line.startswith(b"RESERVED "):
            self._refuse(line)
        _, id, size = line.split()
        return int(id), self._read_data(int(size))

    def _read_inserted(self) -> int | Exception:
        line = self._reader.readline()
        if line.startswith(b"INSERTED ") and line.endswith(b"\r\n"):
            return int(line[9:])
        try:
            self._refuse(line)
        except ANSWERS as error:
            return error

    def _read_stats(self) -> JobStats | None:
        line = self._reader.readline()
        if line == NOT_FOUND:
            return None
        if not line.startswith(b"OK "):
            self._refuse(line)
        told = dict(item.split(b": ", 1) for item in self._read_data(int(line[3:])).split(b"\n")[1:-1])
        numbers = (int(told[name]) for name in (b"pri", b"ttr", b"delay", b"reserves", b"releases", b"kicks"))
        return JobStats(told[b"tube"].strip(b'"').decode(), *numbers)

    def _read_data(self, size: int) -> bytes:
        data = self._reader.read(size + 2)
        if len(data) != size + 2 or data[-2:] != b"\r\n":
            raise ConnectionError("the connection was cut")
        return data[:-2]

    def _refuse(self, line: bytes) -> NoReturn:
        """Raise what a line means that is not the answer that was wanted."""
        greenstalk._parse_response(line, b"")
        raise AssertionError
