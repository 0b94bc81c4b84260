"""A seat in a group: a member that reads nothing, and only knows which partitions are its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

from postbus_kafka.buckets import Progress
from postbus_kafka.clients import Opened
from postbus_kafka.membership import Settlement
from postbus_kafka.options import Settings
from postbus_kafka.untyped import (
    AsyncConsumerRebalanceListener,
    CooperativeStickyAssignor,
    KafkaConsumer,
    MemberState,
    OffsetAndMetadata,
)

logger = logging.getLogger("postbus")

TURN = 0.05
"""Seconds that a turn in the group takes: with less, a member hardly ever gets in."""

BETWEEN = 0.5
"""Seconds between two turns, once there are partitions."""

LONGEST_SESSION = 10.0
"""Seconds after which others have the partitions of a process that died."""

CLOSING = 1.0
"""Seconds that each step of the end may take."""

DIVIDING = 5.0
"""Seconds that the group may take to divide partitions anew, in which nothing can be committed."""


class Quiet(Opened):
    """A consumer that commits and makes nothing by itself."""

    def __init__(self, settings: Settings, name: str, purpose: str, **options: Any) -> None:
        super().__init__(
            KafkaConsumer,
            settings,
            name,
            purpose,
            metrics_enabled=False,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
            metadata_max_age_ms=int(settings.options.metadata_interval * 1000),
            **options,
        )

    def close(self) -> None:
        """Let go of it. Twice is fine."""
        with suppress(Exception):
            self.client.close(autocommit=False, timeout_ms=int(CLOSING * 1000))


class Seat(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """A member of a group. All that it was given is paused for ever: who wants to read does so with another consumer.

    ``leaving`` is told which partitions go, in kafka-python's own thread while the member takes its turn or is closed,
    and returns what to commit of them, if that is possible.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        group: str,
        topics: Collection[str],
        leaving: Callable[[Collection[Any]], Mapping[Any, Progress]],
    ) -> None:
        self._name = name
        self._leaving = leaving
        self._turn_at = 0.0
        self._pending: tuple[Any, Mapping[Any, Progress]] | None = None
        self.lost: set[Any] = set()
        """What has gone since this was emptied last, even if it came back."""
        options = settings.options
        session = min(options.session_timeout, LONGEST_SESSION)
        self._opened = Quiet(
            settings,
            name,
            "seat",
            group_id=group,
            session_timeout_ms=int(session * 1000),
            heartbeat_interval_ms=int(min(options.heartbeat_interval, session / 3) * 1000),
            partition_assignment_strategy=[CooperativeStickyAssignor],
            # What is asked of a broker is answered in turn, so nothing is to wait there for news that nobody wants.
            fetch_max_wait_ms=0,
            # It is not asked where somebody has left off who is in the middle of a transaction.
            isolation_level="read_committed",
        )
        self._opened.client.subscribe(list(topics), listener=self)

    @property
    def lateness(self) -> float:
        """For how many seconds a turn has been due; below 0 it is not."""
        return time.monotonic() - self._turn_at

    @property
    def is_joining(self) -> bool:
        """Whether the group waits for this member, or the other way round: until it is done nothing is committed."""
        return self._opened.is_joining

    @property
    def is_committing(self) -> bool:
        """Whether a commit is under way, as far as `commit` has found out."""
        return self._pending is not None

    def settlement_of(self, wanted: Mapping[Any, Progress]) -> Settlement:
        """Return what a transaction is to commit in place of `commit`."""
        return Settlement(_as_offsets(wanted), self._opened.client.group_metadata())

    def take_turn(self) -> set[Any]:
        """Take part in the group, and return the partitions that are ours."""
        client = self._opened.client
        try:
            client.poll(int(TURN * 1000))
        finally:
            self._opened.go_on_joining()
        ours = client.assignment()
        client.pause(*ours)
        # Until there is something, look again at once: it takes several rounds to get in.
        self._turn_at = time.monotonic() + (BETWEEN if ours else 0)
        return set(ours)

    def committed(self, partitions: Collection[Any], timeout: float) -> dict[Any, Progress]:
        """Return where to begin: where the group has left off, or what is left of a partition begins."""
        client = self._opened.client
        milliseconds = int(timeout * 1000)
        begins = client.beginning_offsets(list(partitions), timeout_ms=milliseconds)
        found: dict[Any, Progress] = {}
        for partition in partitions:
            said, begin = client.committed(partition, metadata=True, timeout_ms=milliseconds), begins.get(partition, 0)
            found[partition] = (
                Progress(begin) if said is None or said.offset < begin else Progress(said.offset, said.metadata)
            )
        return found

    def commit(self, wanted: Mapping[Any, Progress]) -> Mapping[Any, Progress]:
        """Commit this, unless the last commit is under way; return what was committed before."""
        done: Mapping[Any, Progress] = {}
        if self._pending is not None:
            future, pending = self._pending
            if not future.is_done:
                return done
            self._pending = None
            done = pending if future.succeeded() else done
        changed = {partition: progress for partition, progress in wanted.items() if done.get(partition) != progress}
        if changed:
            self._pending = self._opened.client.commit_async(_as_offsets(changed)), changed
        return done

    def close(self) -> None:
        """Commit, and leave the group. Twice is fine."""
        end = time.monotonic() + DIVIDING
        with suppress(Exception):  # Then what was done last is done once more by another.
            while self._is_between() and time.monotonic() < end:
                self.take_turn()
        self._opened.close()

    def _is_between(self) -> bool:
        """Say whether the group is being divided anew: whoever leaves it then cannot commit."""
        is_joining = self._opened.client.group_metadata().state == MemberState.REBALANCING
        return is_joining and bool(self._opened.client.assignment()) and not self._opened.is_cut_off

    async def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        """Do nothing yet: what came is looked at after the turn."""

    async def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        """Commit what is to be kept of them before others have them."""
        wanted = self._leaving(revoked)
        self.lost.update(revoked)
        if self._pending is not None:  # This may not overtake it; what became of it does not matter.
            with suppress(Exception):
                await self._pending[0]
        if not wanted:
            return
        try:
            await self._opened.client.commit_async(_as_offsets(wanted))
        except Exception as error:  # A border: it would end the rebalance.
            logger.warning("What %r gives up could not be committed, so some of it comes again: %s", self._name, error)

    async def on_partitions_lost(self, lost: Collection[Any]) -> None:
        """Others have them already."""
        self._leaving(lost)
        self.lost.update(lost)


def _as_offsets(wanted: Mapping[Any, Progress]) -> dict[Any, Any]:
    return {partition: OffsetAndMetadata(progress.offset, progress.text, -1) for partition, progress in wanted.items()}
