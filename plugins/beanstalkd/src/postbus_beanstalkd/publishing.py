"""How messages become jobs: all of a batch in one exchange."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import greenstalk
from msgspec import Struct

from postbus.errors import MessageRefused, TransportError, describe
from postbus.stamps import Buried
from postbus.transport import Outgoing
from postbus_beanstalkd import jobs
from postbus_beanstalkd.errors import translate
from postbus_beanstalkd.limits import LARGEST, MOST, SHORTEST_TTR
from postbus_beanstalkd.links import Links
from postbus_beanstalkd.options import BeanstalkdOptions, tube_problem
from postbus_beanstalkd.stamps import BeanstalkdJob


class Unacceptable(Exception):
    """A message that will never be taken as it is; says why, in a sentence."""


class Put(Struct, gc=False):
    """A command that puts a job, and into which tube."""

    position: int
    tube: str
    command: bytes


class Publisher:
    """Stores messages."""

    def __init__(self, links: Links, options: BeanstalkdOptions) -> None:
        self._links = links
        self._options = options
        self._lock = threading.Lock()
        self._largest: int | None = None

    def publish(self, messages: Sequence[Outgoing]) -> list[str | None]:
        """Store all of them and return their ids; what is refused is so alone."""
        stored: dict[int, str | None] = {}
        refused: dict[int, str] = {}
        failed: TransportError | None = None
        with self._lock:
            # One tube after the other, in the order of the messages; mostly it is one and the same.
            for tube, puts in groupby(self._make_puts(messages, refused), lambda put: put.tube):
                failed = self._store(tube, puts, stored, refused) or failed
        if failed is not None:
            failed.stored = stored
            raise failed
        if refused:
            raise MessageRefused(refused, stored=stored)
        return list(stored.values())

    def _store(
        self, tube: str, puts: Iterable[Put], stored: dict[int, str | None], refused: dict[int, str]
    ) -> TransportError | None:
        """Put jobs into one tube; return what failed, if anything did and later ones may do better."""
        positions: list[int] = []
        replies: list[int | Exception] = []
        failed: Exception | None = None

        def commands() -> Iterator[bytes]:
            for put in puts:
                positions.append(put.position)
                yield put.command

        try:
            link = self._links.talker
            with link.alone():
                link.use(tube)
                link.put(commands(), replies)
        except TransportError as error:
            error.stored = stored
            raise
        finally:
            for position, reply in zip(positions, replies, strict=False):
                if isinstance(reply, int):
                    stored[position] = str(reply)
                elif isinstance(reply, greenstalk.JobTooBigError):
                    refused[position] = f"{self._links} says that this message is too large for it."
                else:
                    failed = reply
        return None if failed is None else translate(failed, str(self._links))

    def _make_puts(self, messages: Sequence[Outgoing], refused: dict[int, str]) -> Iterator[Put]:
        """Yield what stores each message; put why not into ``refused``, by position."""
        for position, message in enumerate(messages):
            try:
                priority, ttr, tube = self._place_of(message)
                if not 0 <= message.delay <= MOST:
                    raise Unacceptable(f"beanstalkd keeps no delay of {message.delay:g} s, only up to {MOST} s.")
                data = self._write(message, priority, ttr)
            except Unacceptable as why:
                refused[position] = str(why)
                continue
            delay = math.ceil(message.delay)
            yield Put(position, tube, b"put %d %d %d %d\r\n%b\r\n" % (priority, delay, ttr, len(data), data))

    def _place_of(self, message: Outgoing) -> tuple[int, int, str]:
        """Return priority, ttr and tube, as the last stamp about each says."""
        options = self._options
        priority, ttr, tube = options.priority, options.ttr, options.tube_name
        is_buried = False
        for stamp in message.stamps:
            if type(stamp) is BeanstalkdJob:
                priority = priority if stamp.priority is None else stamp.priority
                ttr = ttr if stamp.ttr is None else stamp.ttr
                tube = tube if stamp.tube is None else stamp.tube
            elif type(stamp) is Buried:
                is_buried = True
        if is_buried:
            tube = options.tube_name
        if not 0 <= priority <= MOST:
            raise Unacceptable(f"A priority is a number from 0 to {MOST}, not {priority}. See stamps.BeanstalkdJob.")
        if not SHORTEST_TTR <= ttr <= MOST:
            raise Unacceptable(f"A ttr is {SHORTEST_TTR} to {MOST} seconds, not {ttr}. See stamps.BeanstalkdJob.")
        if tube is not options.tube_name and (why := tube_problem(tube)) is not None:
            raise Unacceptable(f"stamps.BeanstalkdJob holds {why}.")
        return priority, ttr, tube

    def _write(self, message: Outgoing, priority: int, ttr: int) -> bytes:
        try:
            data = jobs.write(message, priority, ttr)
        except (TypeError, ValueError) as error:
            raise Unacceptable(f"A header has no form in JSON: {describe(error)}.") from error
        if len(data) > min(LARGEST, self._options.max_job_size) and len(data) > (largest := self._largest_of_server()):
            raise Unacceptable(f"{self._links} takes messages of up to {largest} bytes, and this one has {len(data)}.")
        return data

    def _largest_of_server(self) -> int:
        """Return how large a job may be. A server reads all of a larger one before it says so."""
        if self._largest is None:
            # Not by the link that is being put on, where answers to what was sent before are under way.
            self._largest = self._links.ask_apart(lambda client: client.stats())["max-job-size"]
        return self._largest
