"""Whether a message that failed is tried again, and when.

There are two levels. What may be over in a moment, such as a deadlock or a connection that was closed, is met
by trying again *at once*, a few times; what takes longer, such as a service that is down, by sending the
message again to be delivered after a *delay*.

A retry at once happens in the hands of the worker, which does not let go of the message meanwhile. Sending a
copy with a delay of 0 instead would put the message behind all that waits, cost two round trips, and help
little, because by the time it comes again nothing is "at once" any more. In the worker's hands

- it keeps its place: with one message at a time, nothing overtakes it;
- its slot stays taken and its lease is extended, as for one handler that takes as long as all attempts together;
- it is read anew from the bytes that came, goes through the whole bus, and leaves out the handlers that have
  succeeded, exactly as the copy would;
- each attempt is told to observers, and its error is on the message, which carries all of that whenever it is
  stored again;
- a worker that is told to stop makes no further attempt. It sends a copy to be handled by the next one, which
  loses nothing of what is known by then;
- if the process dies, the broker delivers the original, and what was known of these attempts is gone with the
  process. Then a handler that had succeeded runs again, as after any crash before a message is settled. A message
  that kills is found by how often it was delivered, and these attempts are no deliveries.

They are counted anew for each delivery, so a message gets them again after each delay. There are finitely many
of them, whatever a policy says: `SupportsImmediate` names a number, so nothing turns in a circle.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal, Protocol, cast, runtime_checkable

from msgspec import Struct, field

from postbus import stamps
from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, causes, qualified_name

LONGEST = 365 * 86400.0
"""Seconds; what "no ceiling" comes to: brokers count time with finite numbers, and anybody can write a high count."""


class RetryPolicy(Protocol):
    """Decides about retries; any object with this method is one.

    It is given the error that a handler raised, as it was raised; if several handlers failed, it is asked about each
    of their errors, and the longest wait counts.
    """

    def next_delay(self, envelope: Envelope, error: Exception) -> float | None:
        """Return the seconds to wait before the message is tried again, or None to give up."""
        ...


@runtime_checkable
class SupportsImmediate(Protocol):
    """A `RetryPolicy` that wants a message to be tried again at once, before it is asked for a wait."""

    def immediate_retries(self, envelope: Envelope, error: Exception) -> int:
        """Return how often, each time that the message is delivered."""
        ...


class Backoff(Struct, frozen=True, kw_only=True):
    """A `RetryPolicy` whose waits grow by a factor: ``delay``, ``delay * factor``, …, with some jitter.

    Without ``immediate`` a message is handled ``max_retries + 1`` times at most, else that many times
    ``immediate + 1``.
    """

    max_retries: int = 3
    """How often a message is sent again, each time to be delivered after a wait."""
    delay: float = 1.0
    """Seconds before the first retry."""
    factor: float = 2.0
    jitter: float = 0.1
    """By how much a wait may be longer or shorter, as a share of it."""
    max_delay: float | None = None
    """No wait is longer, jitter included; None for no ceiling."""
    immediate: int = 0
    """How often a message is tried again at once, each time that it is delivered."""
    errors: Mapping[type[Exception], RetryPolicy | Literal["never"]] = field(
        default_factory=dict[type[Exception], "RetryPolicy | Literal['never']"]
    )
    """What holds instead for errors of some classes, and of their subclasses: another policy, or "never".

    The class closest to that of the error decides. If none is the error's, those of its causes (``raise … from
    …``) are looked at, the nearest first; and at last ``Exception``, which stands for all the others.
    """

    def __post_init__(self) -> None:
        limits = {
            "max_retries": (self.max_retries >= 0, "must be at least 0"),
            "delay": (self.delay >= 0, "must be at least 0"),
            "factor": (self.factor >= 1, "must be at least 1"),
            "jitter": (0 <= self.jitter <= 1, "must be between 0 and 1"),
            "max_delay": (self.max_delay is None or self.max_delay > 0, "must be more than 0"),
            "immediate": (self.immediate >= 0, "must be at least 0"),
        }
        problems = [
            f"Retry option {name!r} {wanted}, got {getattr(self, name)!r}."
            for name, (holds, wanted) in limits.items()
            if not holds
        ]
        for kind, policy in cast(Mapping[object, object], self.errors).items():
            if not is_exception(kind):
                problems.append(f"Retry option 'errors' has the key {kind!r}, which must be a class of exceptions.")
            elif policy != "never" and not hasattr(policy, "next_delay"):
                problems.append(
                    f"Retry option 'errors' must hold a policy or 'never' for {qualified_name(kind)}, got {policy!r}."
                )
        if problems:
            raise ConfigurationError(*problems)

    def next_delay(self, envelope: Envelope, error: Exception) -> float | None:
        """Return the wait before the next attempt; None once there have been ``max_retries``."""
        policy = self.policy_for(error)
        if policy is not self:
            return None if policy is None else policy.next_delay(envelope, error)
        count = retries_of(envelope)
        if count >= self.max_retries:
            return None
        if not self.delay:
            return 0.0
        ceiling = self.max_delay if self.max_delay is not None else LONGEST
        try:
            wait = self.delay * float(self.factor) ** count
        except OverflowError:
            wait = ceiling
        return min(wait * random.uniform(1 - self.jitter, 1 + self.jitter), ceiling)

    def immediate_retries(self, envelope: Envelope, error: Exception) -> int:
        """Return how often a message that failed with this error is tried again at once."""
        policy = self.policy_for(error)
        if policy is self:
            return self.immediate
        return 0 if policy is None else immediate_retries(policy, envelope, error)

    def policy_for(self, error: Exception) -> RetryPolicy | None:
        """Return the policy that holds for an error, which may be this one; None if it is never retried."""
        if not self.errors:
            return self
        kinds = [kind for cause in causes(error) for kind in type(cause).__mro__ if kind is not Exception]
        found = next((self.errors[kind] for kind in kinds if kind in self.errors), self.errors.get(Exception, self))
        return None if isinstance(found, str) else found


def immediate_retries(policy: RetryPolicy, envelope: Envelope, error: Exception) -> int:
    """Return how often a policy wants a message to be tried again at once."""
    return policy.immediate_retries(envelope, error) if isinstance(policy, SupportsImmediate) else 0


def is_exception(value: object) -> bool:
    """Say whether this is a class of errors that a handler may raise."""
    return isinstance(value, type) and issubclass(value, Exception)


def retries_of(envelope: Envelope) -> int:
    """Return how often a message has been sent again."""
    retried = envelope.last(stamps.Retried)
    return retried.count if retried else 0


def attempts_of(envelope: Envelope) -> int:
    """Return how often a message that is tried again was tried before."""
    retried = envelope.last(stamps.Retried)
    return retried.count + retried.immediate if retried else 0
