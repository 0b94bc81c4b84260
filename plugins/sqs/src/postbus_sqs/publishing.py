"""How messages are stored: in batches by number and by size, and answered one by one."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from uuid import uuid4

from postbus.errors import ConnectionLost, MessageRefused, TransportError
from postbus.transport import Outgoing
from postbus_sqs.crew import Crew
from postbus_sqs.limits import BATCH, LARGEST, LONGEST_DELAY, LONGEST_LEASE
from postbus_sqs.messages import Unacceptable, Written, write
from postbus_sqs.options import NO_GROUP, SqsOptions, group_of, is_group
from postbus_sqs.service import Service, failed
from postbus_sqs.stamps import SqsDeduplication, SqsGroup

Batch = dict[int, Written]
"""Messages by their positions."""

ATTEMPTS = 3
"""How often what the service failed to store, which it says, is sent."""


class Doubts:
    """Under which ids messages were sent of which nobody knows whether they are stored.

    They are sent again, by another connection, under the same ids, so that a FIFO queue does not take them twice.
    """

    MOST = 1000

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: dict[int, tuple[Outgoing, str]] = {}

    def id_for(self, message: Outgoing) -> str:
        """Return the id to send a message under: another one for each, but the same for the same one in doubt."""
        with self._lock:
            known = self._ids.pop(id(message), None)
        return known[1] if known is not None else uuid4().hex

    def note(self, message: Outgoing, deduplication: str) -> None:
        """Take note that a message is in doubt; it is held, so that no other one is taken for it."""
        with self._lock:
            self._ids[id(message)] = (message, deduplication)
            while len(self._ids) > self.MOST:
                del self._ids[next(iter(self._ids))]


class Outcome:
    """What became of the messages of a batch, by their positions; all others are in doubt because of the error."""

    def __init__(self) -> None:
        self.stored: dict[int, str | None] = {}
        self.refused: dict[int, str] = {}
        self.error: TransportError | None = None

    def left_of(self, batch: Batch) -> Batch:
        """Return what nothing is known about yet."""
        return {position: batch[position] for position in batch if position not in self.stored | self.refused}


class Publisher:
    """Stores messages."""

    def __init__(self, service: Service, crew: Crew, options: SqsOptions, doubts: Doubts) -> None:
        self._service = service
        self._crew = crew
        self._options = options
        self._doubts = doubts

    def publish(self, messages: Sequence[Outgoing]) -> list[str | None]:
        """Store all of them and return their ids; what is refused is so alone."""
        whole, entries = Outcome(), dict[int, Written]()
        for position, message in enumerate(messages):
            try:
                entries[position] = self._write(message)
            except Unacceptable as why:
                whole.refused[position] = str(why)
        for outcome in self._outcomes([*_batches(entries)]):
            whole.stored |= outcome.stored
            whole.refused |= outcome.refused
            whole.error = whole.error or outcome.error
        if whole.error is not None:
            if self._options.is_fifo:
                for position, written in whole.left_of(entries).items():
                    self._doubts.note(messages[position], written.entry["MessageDeduplicationId"])
            whole.error.stored = whole.stored
            raise whole.error
        if whole.refused:
            raise MessageRefused(whole.refused, stored=whole.stored)
        return [whole.stored[position] for position in range(len(messages))]

    def _outcomes(self, batches: Sequence[Batch]) -> Iterable[Outcome]:
        if not self._options.is_fifo:
            return self._crew.map(self._send, batches)
        outcomes: list[Outcome] = []
        for batch in batches:  # One after the other: what comes later must not be stored without what comes before.
            outcomes.append(self._send(batch))
            if outcomes[-1].error is not None:
                break
        return outcomes

    def _send(self, batch: Batch) -> Outcome:
        """Store what goes into one request."""
        outcome = Outcome()
        try:
            for _ in range(ATTEMPTS):
                self._send_once(outcome.left_of(batch), outcome)
                if not outcome.left_of(batch):
                    return outcome
            outcome.error = ConnectionLost(f"{self._service} does not store messages at the moment")
        except MessageRefused as why:
            # The request was refused as a whole, and one of its messages is the reason.
            left = outcome.left_of(batch)
            if len(left) == 1:
                outcome.refused |= dict.fromkeys(left, str(why))
                return outcome
            for position, written in left.items():
                one = self._send({position: written})
                outcome.stored |= one.stored
                outcome.refused |= one.refused
                outcome.error = outcome.error or one.error
        except TransportError as error:
            outcome.error = error
        return outcome

    def _send_once(self, batch: Batch, outcome: Outcome) -> None:
        entries = [{"Id": str(position), **written.entry} for position, written in batch.items()]
        answer = self._service.call("send_message_batch", Entries=entries)
        outcome.stored |= {int(entry["Id"]): entry["MessageId"] for entry in answer.get("Successful", ())}
        for entry in failed(answer):
            if entry.get("SenderFault"):  # Else the service is to blame, and has certainly not stored it.
                why = entry.get("Message") or entry.get("Code")
                outcome.refused[int(entry["Id"])] = f"{self._service} refuses a message: {why}."

    def _write(self, message: Outgoing) -> Written:
        """Return a message as an entry of a batch; raise `Unacceptable` for what SQS never takes."""
        is_fifo = self._options.is_fifo
        longest = LONGEST_LEASE if is_fifo else LONGEST_DELAY
        if not message.delay <= longest:
            raise Unacceptable(f"{self._service} keeps no message back for {message.delay:g} s; {longest} s at most.")
        seconds = math.ceil(max(message.delay, 0.0))
        written = write(message, 0 if not is_fifo else math.ceil(max(message.delay, 0.0) * 1000))
        if written.size > LARGEST:
            raise Unacceptable(
                f"{self._service} takes messages of up to {LARGEST} bytes, and this one has {written.size} there."
            )
        entry = written.entry
        if seconds and not is_fifo:
            entry["DelaySeconds"] = seconds
        group, deduplication = self._group_for(message), None
        for stamp in message.stamps:
            if isinstance(stamp, SqsDeduplication):
                deduplication = stamp.id
        if deduplication is not None and not is_group(deduplication):
            raise Unacceptable(f"SQS does not take what stamps.SqsDeduplication says: {NO_GROUP}.")
        if deduplication is not None and not is_fifo:
            raise Unacceptable("stamps.SqsDeduplication is for a FIFO queue, whose name ends with '.fifo'.")
        if is_fifo:
            entry["MessageDeduplicationId"] = deduplication = deduplication or self._doubts.id_for(message)
            group = group or deduplication
        if group is not None:
            entry["MessageGroupId"] = group
        return written

    def _group_for(self, message: Outgoing) -> str | None:
        """Return the message group of a message, if it has one; raise `Unacceptable` for one that SQS does not take."""
        for stamp in reversed(message.stamps):
            if isinstance(stamp, SqsGroup):
                if not is_group(stamp.name):
                    raise Unacceptable(f"SQS does not take what stamps.SqsGroup says: {NO_GROUP}.")
                return stamp.name
        key = message.group if self._options.is_fifo else None
        return group_of(key) if key is not None else self._options.group


def _batches(entries: Batch) -> Iterator[Batch]:
    """Yield what goes into one request each, in order."""
    batch: Batch = {}
    size = 0
    for position, written in entries.items():
        if batch and (len(batch) == BATCH or size + written.size > LARGEST):
            yield batch
            batch, size = {}, 0
        batch[position] = written
        size += written.size
    if batch:
        yield batch
