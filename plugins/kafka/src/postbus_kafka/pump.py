"""The thread that owns the consumer: it polls whatever handlers do, commits, and takes part in rebalances.

kafka-python's consumer belongs to one thread. What it reads waits in the inventory, and nobody else talks to it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from postbus.errors import TransportError
from postbus_kafka.assigning import EvenAssignor
from postbus_kafka.assignment import Commit
from postbus_kafka.clients import Opened
from postbus_kafka.errors import translate
from postbus_kafka.inventory import Inventory
from postbus_kafka.metadata import decode
from postbus_kafka.options import Settings
from postbus_kafka.rebalancing import Rebalancing
from postbus_kafka.untyped import (
    KafkaConsumer,
    OffsetAndMetadata,
    errors,
)

logger = logging.getLogger("postbus")

POLL = 0.1
"""Seconds for which one poll waits at most, which is how soon the thread hears of a close."""

HURRIED = 0.005
"""The same while somebody waits for a commit, or for its answer."""

PATIENT = 0.5
"""Seconds after which an answer is not waited for in a hurry any more, and a commit that failed is made again."""

AT_ONCE = 5000
"""How many records one poll returns at most."""

LEAST_FETCH = 1024 * 1024

CLOSING = 2.0
"""Seconds that a last commit may take, and leaving the group."""

DIVIDING = 6.0
"""Seconds that the group may take to divide partitions anew, in which nothing can be committed."""


class Pump:
    """A consumer and its thread; once that has ended, ``error`` says why, if it is not that it was told to."""

    def __init__(self, settings: Settings, name: str, inventory: Inventory, prepare: Callable[[], object]) -> None:
        self.error: TransportError | None = None
        self.away_since: float | None = None
        """Since when no broker can be reached, by the monotonic clock; None while one can."""
        self.turned_at = time.monotonic()
        """When the thread was last seen at work: after a pause that is too long, the group may have given up on it."""
        self.fetched_at = time.monotonic()
        """When somebody wanted something last."""
        self.commits = threading.RLock()
        """Held while a commit is under way that is not to be overtaken by another."""
        self._settings = settings
        self._name = name
        self._inventory = inventory
        self._prepare = prepare
        self._opened: Opened
        self.net: Any = None
        self._is_told_to_end = self._is_closing = False
        self._is_to_leave = True
        self._pending: tuple[Any, list[Commit]] | None = None
        self._commit_at = self._committed_at = 0.0
        self._retry_at = self._doubted_at = 0.0
        self._is_paused = False
        self._average_size = 1000.0
        self._thread = threading.Thread(target=self._run, name=f"postbus {name} (kafka)", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether the thread has ended, or is about to."""
        return self.error is not None or self._is_told_to_end or self._is_closing or not self._thread.is_alive()

    def end(self, *, leaves: bool = True) -> None:
        """Let the thread end; ``leaves`` says whether to commit, and to leave the group, before."""
        self._is_to_leave = leaves
        self._is_told_to_end = True

    def join(self, timeout: float) -> None:
        """Wait until it has ended."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    @property
    def member(self) -> Any:
        """What a transaction that commits for this member is to say of it."""
        return self._consumer.group_metadata()

    # in kafka-python's own thread

    def hold_back(self, partitions: Collection[Any]) -> None:
        """Pause what has come if the others are: see `_balance`."""
        if self._is_paused:
            self._consumer.pause(*partitions)

    async def commit_last(self, partitions: Collection[Any]) -> None:
        """Commit what is settled of partitions that go to others; what cannot be comes again there."""
        pending = self._pending
        while pending is not None and not pending[0].is_done:  # It may not overtake this.
            await self.net.sleep(HURRIED)
        commits = self._inventory.to_commit(partitions, is_last=True)
        if not commits:
            return
        try:
            await self._consumer.commit_async(as_offsets(commits))
        except Exception as error:  # A border: it would end the rebalance.
            logger.warning(
                "What %r has handled of partitions that it gives up could not be committed, so it comes again: %s",
                self._name,
                error,
            )

    # in the thread

    def _run(self) -> None:
        try:
            self._prepare()
            self._opened = self._open()
        except Exception as error:  # A border: whatever goes wrong in here must reach those who wait for it.
            self._end_with(translate(error, self._settings))
            return
        self._consumer, self.net = self._opened.client, self._opened.net
        try:
            self._consumer.subscribe(
                self._settings.read_topics, listener=Rebalancing(self, self._inventory, self._settings)
            )
            while not self._is_told_to_end and not self._is_idle():
                self._take_turn()
        except Exception as error:  # A border, as above.
            self._end_with(self._opened.translate(error))
        finally:
            self._close()

    def _end_with(self, error: TransportError) -> None:
        self._inventory.wake(lambda: setattr(self, "error", error))

    def _open(self) -> Opened:
        options = self._settings.options
        largest = max(options.prefetch_bytes // 4, LEAST_FETCH)
        return Opened(
            KafkaConsumer,
            self._settings,
            self._name,
            "consumer",
            group_id=self._settings.group,
            group_instance_id=options.group_instance_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            partition_assignment_strategy=[EvenAssignor],
            session_timeout_ms=int(options.session_timeout * 1000),
            heartbeat_interval_ms=int(options.heartbeat_interval * 1000),
            metadata_max_age_ms=int(options.metadata_interval * 1000),
            max_poll_records=AT_ONCE,
            fetch_max_bytes=largest,
            max_partition_fetch_bytes=min(largest, 4 * LEAST_FETCH),
            fetch_max_wait_ms=500,
            retry_backoff_ms=50,
            metrics_enabled=False,
        )

    def _is_idle(self) -> bool:
        """Say whether nobody wants anything any more: then what waits here is for others."""
        idle = time.monotonic() - self.fetched_at
        return idle > self._settings.options.idle_timeout and self._inventory.is_idle

    @property
    def has_stood_still(self) -> bool:
        """Whether the group may have given up on this member."""
        return time.monotonic() - self.turned_at > self._settings.options.session_timeout / 2

    def _is_out_of_touch(self) -> bool:
        """Say the same of one that the brokers have not answered for so long."""
        away = 0.0 if self.away_since is None else time.monotonic() - self.away_since
        return max(away, self._opened.silence) > self._settings.options.session_timeout / 2

    def _take_turn(self) -> None:
        if self.has_stood_still or self._is_out_of_touch():
            self._inventory.doubt()
            self._doubted_at = time.monotonic()
        self.turned_at = time.monotonic()
        records = self._poll(HURRIED if self._is_in_a_hurry() else POLL)
        if unknown := self._inventory.unknown():
            self._restore(unknown)
        if records:
            self._inventory.add(records)
        self._look_for_brokers()
        self._balance()
        self._commit()

    def _is_in_a_hurry(self) -> bool:
        if self._opened.is_joining:  # Nothing is committed, and the longer a poll, the less comes between two.
            return False
        is_recent = time.monotonic() - self._committed_at < PATIENT
        return self.away_since is None and (self._inventory.is_blocked or (self._pending is not None and is_recent))

    def _poll(self, patience: float) -> Any:
        fitting = int(self._settings.options.prefetch_bytes / 4 / self._average_size)
        number = max(min(AT_ONCE, self._inventory.room, fitting), 1)
        try:
            records = self._consumer.poll(timeout_ms=int(patience * 1000), max_records=number)
        except errors.FencedInstanceIdError as error:
            name = self._settings.options.group_instance_id
            raise TransportError(
                f"Another worker of {self._settings.group!r} has the group_instance_id {name!r}. Give each its own."
            ) from error
        except errors.RetriableError as error:
            logger.debug("Polling %s failed: %s", self._settings, error)
            time.sleep(patience)
            return {}
        finally:
            self._opened.go_on_joining()
        for some in records.values():
            average = sum(len(record.value or b"") for record in some[:100]) / len(some[:100])
            self._average_size += (max(average, 1) - self._average_size) / 4
        return records

    def _restore(self, partitions: Sequence[Any]) -> None:
        """Read what the group has committed about partitions that came to us."""
        milliseconds = int(self._settings.options.timeout * 1000)
        try:
            begins = self._consumer.beginning_offsets(partitions, timeout_ms=milliseconds)
            ends = self._consumer.end_offsets(partitions, timeout_ms=milliseconds)
            for partition in partitions:
                found = self._consumer.committed(partition, metadata=True, timeout_ms=milliseconds)
                offset, text = (None, None) if found is None else (found.offset, found.metadata)
                begin, end = begins.get(partition, 0), ends.get(partition, 0)
                if offset is None or not begin <= offset <= end:
                    self._tell_missing(partition, offset, begin)
                    self._inventory.restore(partition, begin, (), end)
                else:
                    self._inventory.restore(partition, offset, decode(text), end)
        except (errors.RetriableError, errors.KafkaTimeoutError) as error:
            logger.debug("Reading offsets from %s failed: %s", self._settings, error)

    def _tell_missing(self, partition: Any, offset: int | None, begin: int) -> None:
        if offset is None:
            return
        where = f"partition {partition.partition} of topic {partition.topic!r}"
        if offset < begin:
            logger.error(
                "%d messages of %s are gone: the broker has deleted them, as its retention says, before group %r had "
                "handled them.",
                begin - offset,
                where,
                self._settings.group,
            )
        else:
            logger.error(
                "What group %r has committed of %s is not there any more. Reading it anew.", self._settings.group, where
            )

    def _look_for_brokers(self) -> None:
        """Take note of whether any broker can be reached."""
        if not self._opened.is_cut_off:
            self.away_since = None
        elif self.away_since is None:
            self.away_since = time.monotonic()
            self._inventory.wake()

    def _balance(self) -> None:
        """Read no more while too much waits: of no partition.

        What was read of one that pauses, and not returned, kafka-python keeps; once it has read from another one
        meanwhile, it never looks at that again, and reads nothing behind it either.
        """
        if self._is_paused and self._inventory.is_half_empty:
            self._is_paused = False
            self._consumer.resume(*self._consumer.assignment())
        elif not self._is_paused and self._inventory.is_full:
            self._is_paused = True
            self._consumer.pause(*self._consumer.assignment())

    # committing

    def _commit(self) -> None:
        """Commit what has changed, now and then; look what became of the last commit first."""
        if self._pending is not None:
            self._look_at_pending()
        now = time.monotonic()
        if self._pending is not None or now < self._retry_at:
            return
        if now < self._commit_at and not self._inventory.must_commit():
            return
        if not self.commits.acquire(blocking=False):
            return
        try:
            if now >= self._commit_at:
                self._skip_markers()
            if commits := self._inventory.to_commit():
                self._committed_at = now
                self._pending = self._consumer.commit_async(as_offsets(commits)), commits
            self._commit_at = now + self._settings.options.commit_interval
        finally:
            if self._pending is None:
                self.commits.release()

    def _look_at_pending(self) -> None:
        assert self._pending is not None
        future, commits = self._pending
        if not future.is_done:
            return
        self._pending = None
        self.commits.release()
        if future.succeeded():
            self._inventory.confirm(commits, ends_doubt=self._committed_at > self._doubted_at)
            return
        self._inventory.fail(commits)
        self._retry_at = time.monotonic() + PATIENT / 5
        logger.debug("Committing to %s failed: %s", self._settings, future.exception)

    def _skip_markers(self) -> None:
        """Take note of offsets that no record has, such as the end of a transaction: else they count as waiting."""
        for partition in self._inventory.drained():
            if partition in self._consumer.assignment():
                position = self._consumer.position(partition, timeout_ms=int(HURRIED * 1000))
                if position is not None:
                    self._inventory.skip(partition, position)

    def _commit_for_the_last_time(self) -> None:
        """Commit all that is settled; while the group divides its partitions, take part in that until it can be."""
        end = time.monotonic() + DIVIDING
        while commits := self._inventory.to_commit(self._inventory.partitions(), is_last=True):
            try:
                self._consumer.commit(as_offsets(commits), timeout_ms=int(CLOSING * 1000))
            except errors.RebalanceInProgressError:
                if time.monotonic() > end:
                    raise
                self._consumer.poll(timeout_ms=int(POLL * 1000))
                self._opened.go_on_joining()
            else:
                return

    def _close(self) -> None:
        self._is_closing = True
        partitions = self._inventory.partitions()
        self._inventory.begin_to_leave(partitions)
        try:
            if self._is_to_leave and self.error is None and self.away_since is None:
                self._commit_for_the_last_time()
        except Exception as error:  # A border: then what was handled last comes once more.
            logger.warning("What %r has handled last could not be committed, so it comes again: %s", self._name, error)
        self._inventory.lose(self._inventory.partitions())
        if self._pending is not None:
            self.commits.release()
        try:
            self._consumer.close(autocommit=False, timeout_ms=int(CLOSING * 1000))
        except Exception:  # A border: it is of no use any more.
            logger.debug("Closing the consumer of %r failed.", self._name, exc_info=True)
        self._inventory.wake()


def as_offsets(commits: Sequence[Commit]) -> dict[Any, Any]:
    """Return commits as kafka-python takes them."""
    return {commit.assignment.partition: OffsetAndMetadata(commit.offset, commit.text, -1) for commit in commits}
