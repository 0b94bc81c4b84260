"""Mutants for the rules in `postbus.testing.rules.delays`."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from postbus import stamps
from postbus.transport import Delivery, Outgoing
from postbus_in_memory.queue import Queue
from tests.contract.healthy import Limited, Plain
from tests.contract.mutants.entry import breaks


class Delaying(Plain):
    """Stores messages with other delays than they have."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        return super().publish([replace(m, delay=self.change_delay(m, n)) for n, m in enumerate(messages)])

    def change_delay(self, message: Outgoing, position: int) -> float:
        raise NotImplementedError


@breaks("a_delayed_message_is_never_early")
class HalvesDelays(Delaying):
    """Waits half as long as it was told to."""

    def change_delay(self, message: Outgoing, position: int) -> float:
        return message.delay / 2


@breaks("several_delays_may_be_over_at_once")
class DelaysTheSecondMore(Delaying):
    """Moves one delayed message an hour to those that wait."""

    def change_delay(self, message: Outgoing, position: int) -> float:
        return message.delay + 3600 * position if message.delay else 0.0


@breaks("a_delay_of_zero_is_no_delay")
class DelaysByAMinuteAtLeast(Delaying):
    """Delays whatever has a stamp about delay by a minute at least."""

    def change_delay(self, message: Outgoing, position: int) -> float:
        stamped = any(isinstance(stamp, stamps.Delay) for stamp in message.stamps)
        return max(message.delay, 60.0) if stamped else message.delay


@breaks("a_far_delay_is_kept")
class ForgetsFarDelays(Delaying):
    """Takes a delay of more than two hours for none."""

    def change_delay(self, message: Outgoing, position: int) -> float:
        return message.delay if message.delay < 7200 else 0.0


class NoAlarm(Queue):
    """Wakes nobody when a delay is over, only when something else happens."""

    def seconds_until_next(self) -> float:
        delays, self._schedule = self._schedule, []
        try:
            return super().seconds_until_next()
        finally:
            self._schedule = delays


@breaks("a_fetch_returns_when_a_delay_is_over")
class LooksForDelaysFirst(Plain):
    """Looks for what is due when a fetch begins, and when it ends."""

    queue_type = NoAlarm


class SingleFile(Queue):
    """Delivers nothing while the message in front is delayed."""

    def take(self, limit: int, lease: float) -> list[Delivery]:
        front = next(iter(self.messages.values()), None)
        if front is not None and front.available_at > self.clock.now():
            return []
        return super().take(limit, lease)


@breaks("a_delayed_message_holds_up_nobody")
class WaitsForTheFront(Plain):
    """Lets a delayed message hold up those behind it."""

    queue_type = SingleFile


@breaks("a_delay_that_cannot_be_kept_is_refused")
class ShortensDelays(Limited):
    """Delays by a minute what should be delayed for longer."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        return super().publish([replace(message, delay=min(message.delay, 60.0)) for message in messages])
