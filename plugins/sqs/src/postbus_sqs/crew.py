"""Threads that send requests, so that several are under way at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Crew:
    """Daemon threads, made as they are needed, which end when nothing is to be done for a while.

    Nobody waits for them at the end of a process: one may be in a request that takes as long as the service likes.
    """

    REST = 10.0
    """Seconds for which an idle thread stays."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0

    def begin(self, work: Callable[[], None]) -> None:
        """Do something in a thread of its own; it must not raise."""
        with self._lock:
            is_needed = self._idle <= 0
            self._idle -= 1
        self._work.put(work)
        if is_needed:
            threading.Thread(target=self._run, name="postbus-sqs", daemon=True).start()

    def map(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return what comes of each item, in order, several at a time."""
        if len(items) == 1:  # No thread is faster than this one.
            return [work(items[0])]
        futures: list[Future[R]] = [Future() for _ in items]
        todo = SimpleQueue[int]()
        for position in range(len(items)):
            todo.put(position)

        def take() -> None:
            while True:
                try:
                    position = todo.get_nowait()
                except Empty:
                    return
                try:
                    futures[position].set_result(work(items[position]))
                except BaseException as error:  # A border: it is raised where the result is asked for.
                    futures[position].set_exception(error)

        for _ in range(min(self._size, len(items)) - 1):
            self.begin(take)
        take()
        return [future.result() for future in futures]

    def _run(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            try:
                work = self._work.get(timeout=self.REST)
            except Empty:
                with self._lock:
                    if self._idle > 0:  # Else something has just been begun for this thread.
                        self._idle -= 1
                        return
                work = self._work.get()
            work()
