"""A thread that gives back what nobody keeps alive any more.

The server should, when a ttr is over; beanstalkd 1.12 forgets it of a third of the jobs whose connection says nothing
meanwhile, and goes on to call them reserved. Any command about another job of that connection reminds it; so does
closing it.
"""

from __future__ import annotations

import threading
import time

from postbus_beanstalkd.link import Link
from postbus_beanstalkd.links import Links

GRACE = 0.2
"""Seconds that the server is given to notice by itself."""

MOST = 1.0
"""Seconds between two looks, at most: another ttr may be shorter."""


class Guard:
    """Looks after the links that hold jobs, and closes those that hold nothing else than what is overdue."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._thread: threading.Thread | None = None
        self._is_needed = threading.Event()
        self._is_over = threading.Event()

    def look(self) -> None:
        """Begin to look, as there are jobs that were reserved."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="postbus-beanstalkd-guard", daemon=True)
            self._thread.start()
        self._is_needed.set()

    def stop(self) -> None:
        """Look no more."""
        self._is_over.set()
        self._is_needed.set()

    def _run(self) -> None:
        while not self._is_over.is_set():
            self._is_needed.wait()
            self._is_needed.clear()
            while not self._is_over.is_set() and (pause := self._look_once()) is not None:
                self._is_over.wait(pause)

    def _look_once(self) -> float | None:
        """Give up what is overdue; return after how many seconds to look again, None while nothing is held."""
        pause = None
        for link in self._links.takers:
            until = end_of(link)
            if until is None:
                continue
            left = until + GRACE - time.monotonic()
            if left <= 0:
                self._give_up(link)
            else:
                pause = min(left, pause or MOST, MOST)
        return pause

    def _give_up(self, link: Link) -> None:
        with link.unless_busy() as is_mine:
            until = end_of(link)
            if is_mine and until is not None and until + GRACE <= time.monotonic():
                self._links.drop(link)


def end_of(link: Link) -> float | None:
    """Return when all that a link holds is overdue, on the monotonic clock; None if it holds nothing."""
    return max((job.until for job in list(link.held.values())), default=None)
