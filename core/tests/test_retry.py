"""Whether a message is tried again and when, and what an error counts as for that."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postbus import Backoff, ConfigurationError, Envelope, HandlerFailed, Recoverable, StopWorker, Unrecoverable, stamps
from postbus.errors import DeferredFailed, NotDecoded, describe, leaves
from postbus.retry import LONGEST, retries_of

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ERROR = ValueError("no")
TIMEOUT = TimeoutError()
ENVELOPE = Envelope.wrap("m")


def after(count: int) -> Envelope:
    """Return a message that has been retried so often."""
    return Envelope.wrap("m", *([stamps.Retried(count, NOW)] if count else []))


def delays(policy: Backoff, attempts: int) -> list[float | None]:
    return [policy.next_delay(after(count), ERROR) for count in range(attempts)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Backoff(jitter=0), [1, 2, 4, None, None]),
        (Backoff(jitter=0, max_retries=5), [1, 2, 4, 8, 16, None]),
        (Backoff(jitter=0, max_retries=0), [None, None]),
        (Backoff(jitter=0, factor=1), [1, 1, 1, None]),
        (Backoff(jitter=0, delay=0.25, factor=3), [0.25, 0.75, 2.25, None]),
        (Backoff(jitter=0, delay=0), [0, 0, 0, None]),
        (Backoff(jitter=0, delay=1, factor=2, max_delay=3, max_retries=5), [1, 2, 3, 3, 3, None]),
        (Backoff(jitter=0, delay=1, factor=1, max_delay=0.5), [0.5, 0.5, 0.5, None]),
        (Backoff(jitter=0, factor=1.5), [1, 1.5, 2.25, None]),
        (Backoff(jitter=0, immediate=5), [1, 2, 4, None]),
    ],
)
def test_the_waits_grow_by_the_factor(policy: Backoff, expected: list[float | None]) -> None:
    """Without jitter the waits are delay, delay × factor, …, at most max_delay; then it gives up."""
    assert expected == delays(policy, len(expected))


def test_the_defaults() -> None:
    """Three retries, one second, factor 2, 10 % jitter, no ceiling; nothing at once, and for all errors the same."""
    assert Backoff(max_retries=3, delay=1.0, factor=2.0, jitter=0.1, max_delay=None) == Backoff()
    assert Backoff(immediate=0, errors={}) == Backoff()


def test_the_newest_stamp_tells_how_often_it_was_retried() -> None:
    """A message without the stamp was never retried; of several the last counts."""
    assert 0 == retries_of(Envelope.wrap("m"))
    assert 1 == retries_of(Envelope.wrap("m", stamps.Retried(7, NOW), stamps.Retried(1, NOW)))


@given(
    delay=st.floats(0, 1e6),
    factor=st.floats(1, 100),
    jitter=st.floats(0, 1),
    ceiling=st.one_of(st.none(), st.floats(0.001, 1e9)),
    count=st.integers(0, 50),
)
def test_jitter_stays_within_its_share(
    delay: float, factor: float, jitter: float, ceiling: float | None, count: int
) -> None:
    """A wait differs from the exact one by at most that share of it, and never exceeds the ceiling."""
    policy = Backoff(max_retries=100, delay=delay, factor=factor, jitter=jitter, max_delay=ceiling)
    exact = delay * factor**count
    highest = LONGEST if ceiling is None else ceiling
    wait = policy.next_delay(after(count), ERROR)
    assert wait is not None
    assert min(exact * (1 - jitter), highest) * 0.999999 <= wait <= min(exact * (1 + jitter) * 1.000001, highest)


def test_jitter_spreads_in_both_directions() -> None:
    """Some waits are shorter than the exact one and some longer, so that retries do not come in step."""
    waits = [Backoff(jitter=0.5).next_delay(after(0), ERROR) or 0 for _ in range(200)]
    assert min(waits) < 1 < max(waits)
    assert 100 < len(set(waits))


def test_the_ceiling_comes_after_the_jitter() -> None:
    """At the ceiling jitter makes a wait shorter, never longer."""
    policy = Backoff(delay=10, factor=1, jitter=1, max_delay=10)
    waits = [policy.next_delay(after(0), ERROR) or 0 for _ in range(200)]
    assert 10 == max(waits)
    assert min(waits) < 10


@pytest.mark.parametrize(
    ("policy", "count"),
    [
        (Backoff(max_retries=100_000, jitter=0), 5_000),
        (Backoff(max_retries=100_000, jitter=1), 5_000),
        (Backoff(max_retries=100_000, factor=10, jitter=0), 99_999),
        (Backoff(max_retries=3, delay=1e308, factor=1e308, jitter=0), 1),
        (Backoff(max_retries=3, delay=math.inf, jitter=0.1), 0),
        pytest.param(
            Backoff(max_retries=3_000, delay=1, factor=2),
            2_000,
            id="whole-numbers",
        ),
    ],
)
def test_a_wait_never_overflows(policy: Backoff, count: int) -> None:
    """However often it failed, the wait is a finite number of seconds that a broker can count."""
    wait = policy.next_delay(after(count), ERROR)
    assert wait is not None
    assert 0 <= wait <= LONGEST


def test_a_wait_that_overflows_is_the_ceiling() -> None:
    """Where the exact wait is too large for a number, it is as long as any wait may be."""
    assert 60 == Backoff(max_retries=10_000, max_delay=60, jitter=0).next_delay(after(9_999), ERROR)
    assert LONGEST == Backoff(max_retries=10_000, jitter=0).next_delay(after(9_999), ERROR)


@pytest.mark.parametrize("count", [-(10**30), -1, 5_000, 10**30])
@pytest.mark.parametrize("factor", [1, 2, 1e300])
def test_a_count_that_somebody_has_written_is_calculated_with(count: int, factor: float) -> None:
    """With one below 0 no wait is shorter than the first, and with one beyond all none is longer than a year."""
    policy = Backoff(max_retries=10**9, factor=factor, jitter=0)
    wait = policy.next_delay(after(count), ERROR)
    assert wait is not None
    assert 1 <= wait <= 366 * 86400
    assert count > 0 or 1 == wait


def test_no_delay_stays_no_delay() -> None:
    """A delay of 0 is 0 after any number of retries."""
    assert 0 == Backoff(max_retries=10_000, delay=0.0).next_delay(after(2_000), ERROR)


def test_the_error_and_the_message_do_not_matter() -> None:
    """The policy counts only; what is recoverable is decided elsewhere."""
    for error in (ERROR, Unrecoverable("no"), Recoverable(delay=99)):
        assert 1 == Backoff(jitter=0).next_delay(after(0), error)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_retries": -1}, "Retry option 'max_retries' must be at least 0, got -1."),
        ({"delay": -0.5}, "Retry option 'delay' must be at least 0, got -0.5."),
        ({"delay": math.nan}, "Retry option 'delay' must be at least 0, got nan."),
        ({"factor": 0.9}, "Retry option 'factor' must be at least 1, got 0.9."),
        ({"factor": math.nan}, "Retry option 'factor' must be at least 1, got nan."),
        ({"jitter": 1.1}, "Retry option 'jitter' must be between 0 and 1, got 1.1."),
        ({"jitter": -0.1}, "Retry option 'jitter' must be between 0 and 1, got -0.1."),
        ({"max_delay": 0}, "Retry option 'max_delay' must be more than 0, got 0."),
        ({"max_delay": -1.0}, "Retry option 'max_delay' must be more than 0, got -1.0."),
        ({"immediate": -1}, "Retry option 'immediate' must be at least 0, got -1."),
        (
            {"errors": {"ValueError": "never"}},
            "Retry option 'errors' has the key 'ValueError', which must be a class of exceptions.",
        ),
        (
            {"errors": {KeyboardInterrupt: "never"}},
            "Retry option 'errors' has the key <class 'KeyboardInterrupt'>, which must be a class of exceptions.",
        ),
        (
            {"errors": {ValueError: "always"}},
            "Retry option 'errors' must hold a policy or 'never' for builtins.ValueError, got 'always'.",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(options: dict[str, Any], problem: str) -> None:
    """The error names the option, what it must be, and what it is."""
    with pytest.raises(ConfigurationError) as caught:
        Backoff(**options)
    assert (problem,) == caught.value.problems


def test_all_mistakes_are_reported_at_once() -> None:
    """Who made five mistakes is told of five, each a sentence of its own."""
    with pytest.raises(ConfigurationError) as caught:
        Backoff(max_retries=-1, delay=-1, factor=0, jitter=2, max_delay=-1)
    assert ["max_retries", "delay", "factor", "jitter", "max_delay"] == [
        problem.split("'")[1] for problem in caught.value.problems
    ]
    assert "\n".join(caught.value.problems) == str(caught.value)


@pytest.mark.parametrize(
    "options", [{"max_retries": 0}, {"delay": 0}, {"factor": 1}, {"jitter": 0}, {"jitter": 1}, {"max_delay": 0.001}]
)
def test_the_limits_themselves_are_allowed(options: dict[str, Any]) -> None:
    """The smallest and largest values that make sense are taken."""
    assert next(iter(options.values())) == getattr(Backoff(**options), next(iter(options)))


def test_a_policy_cannot_be_changed() -> None:
    """A policy is a frozen value, made with named options only."""
    with pytest.raises(AttributeError):
        Backoff().delay = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        Backoff(5)  # type: ignore[misc]


# Another policy for some errors.


def raised_from(error: Exception, *chain: Exception) -> Exception:
    """Return an error that was raised from another one, and that from the next."""
    whole = (error, *chain)
    for one, cause in pairwise(whole):
        one.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(), 10.0),
        (TimeoutError(), 20.0),
        (ConnectionError(), None),
        (ConnectionResetError(), None),
        (FileNotFoundError(), 10.0),
        (ValueError(), 1.0),
        (raised_from(RuntimeError(), TimeoutError()), 20.0),
        (raised_from(RuntimeError(), KeyError(), ConnectionResetError()), None),
        (raised_from(TimeoutError(), ConnectionError()), 20.0),
        (raised_from(FileNotFoundError(), TimeoutError()), 10.0),
        (raised_from(RuntimeError(), ValueError()), 1.0),
    ],
)
def test_the_closest_class_decides(error: Exception, expected: float | None) -> None:
    """An error has the policy of its own class, else of the nearest above it, else of what it was raised from."""
    policy = Backoff(
        jitter=0,
        errors={
            OSError: Backoff(delay=10, jitter=0),
            ConnectionError: "never",
            TimeoutError: Backoff(delay=20, jitter=0, immediate=3),
        },
    )
    assert expected == policy.next_delay(after(0), error)
    assert (3 if expected == 20 else 0) == policy.immediate_retries(after(0), error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), 5.0),
        (ValueError(), None),
        (raised_from(ValueError(), TimeoutError()), 5.0),
        (raised_from(ValueError(), KeyError()), None),
    ],
)
def test_exception_stands_for_all_the_others(error: Exception, expected: float | None) -> None:
    """Nothing but what is named is retried, if ``Exception`` never is; what an error was raised from comes before."""
    policy = Backoff(errors={Exception: "never", TimeoutError: Backoff(delay=5, jitter=0)})
    assert expected == policy.next_delay(after(0), error)


def test_an_error_has_its_own_number_of_retries() -> None:
    """How often and how long are the other policy's; the count is the message's, whatever it failed with."""
    policy = Backoff(
        max_retries=1, jitter=0, errors={TimeoutError: Backoff(max_retries=3, delay=7, factor=1, jitter=0)}
    )
    assert [7, 7, 7, None] == [policy.next_delay(after(count), TimeoutError()) for count in range(4)]
    assert [1, None] == [policy.next_delay(after(count), ERROR) for count in range(2)]


def test_an_error_may_have_a_policy_of_ones_own() -> None:
    """Any policy will do, also one that knows nothing of retries at once."""

    class Hourly:
        def next_delay(self, envelope: Envelope, error: Exception) -> float | None:
            return 3600.0

    policy = Backoff(immediate=2, errors={TimeoutError: Hourly()})
    assert (3600.0, 0) == (policy.next_delay(after(9), TimeoutError()), policy.immediate_retries(ENVELOPE, TIMEOUT))
    assert 2 == policy.immediate_retries(ENVELOPE, ERROR)


def test_an_error_that_was_raised_while_another_was_handled_is_not_its_cause() -> None:
    """Only ``raise … from …`` says that one error stands for another."""
    error = ValueError()
    error.__context__ = ConnectionError()
    assert 1 == Backoff(jitter=0, errors={ConnectionError: "never"}).next_delay(after(0), error)


# What an error counts as.


def failed(*errors: Exception) -> HandlerFailed:
    return HandlerFailed("M", {f"h{number}": error for number, error in enumerate(errors)})


def caused(error: Exception, by: BaseException) -> Exception:
    error.__cause__ = by
    return error


HOPELESS, AGAIN, STOP = Unrecoverable("hopeless"), Recoverable("again"), StopWorker("stop")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ERROR, [ERROR]),
        (failed(ERROR, HOPELESS), [ERROR, HOPELESS]),
        (failed(failed(ERROR), AGAIN), [ERROR, AGAIN]),
        (DeferredFailed([failed(HOPELESS), ERROR]), [HOPELESS, ERROR]),
        (ExceptionGroup("g", [ERROR, ExceptionGroup("h", [STOP])]), [ERROR, STOP]),
        (caused(KeyError("k"), HOPELESS), [HOPELESS]),
        (caused(KeyError("k"), caused(KeyError("l"), AGAIN)), [AGAIN]),
        (failed(caused(KeyError("k"), STOP)), [STOP]),
    ],
)
def test_the_leaves_of_an_error_are_what_decides(error: Exception, expected: list[Exception]) -> None:
    """Wrappers are taken off, and an error raised from one that decides counts as that one."""
    assert [id(one) for one in expected] == [id(leaf) for leaf in leaves(error)]


def test_an_error_with_another_cause_counts_as_itself() -> None:
    """A cause that decides nothing is not put in the place of the error."""
    error = caused(KeyError("k"), ERROR)
    assert [error] == leaves(error)


def test_what_could_not_be_decoded_is_hopeless() -> None:
    """A message that cannot be decoded is buried at once."""
    assert isinstance(NotDecoded("no"), Unrecoverable)


@pytest.mark.parametrize("length", [1, 2])
def test_causes_that_go_round_in_a_circle_end(length: int) -> None:
    """An error that is its own cause, which ``raise error from error`` makes, counts as itself."""
    errors = [ValueError(number) for number in range(length)]
    for number, error in enumerate(errors):
        error.__cause__ = errors[(number + 1) % length]

    lines = 0

    def count(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        lines += 1
        if lines > 10_000:
            raise RuntimeError("It does not end.")
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        found = leaves(errors[0])
    finally:
        sys.settrace(before)
    assert errors[:1] == found


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no"), "ValueError: no"),
        (ValueError(), "ValueError"),
        (ValueError("one\n  two\tthree "), "ValueError: one two three"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_an_error_is_described_in_one_line(error: BaseException, expected: str) -> None:
    """Its type and its text, without line breaks."""
    assert expected == describe(error)


def test_handler_failed_says_what_failed_first() -> None:
    """The text has the message's type, the first error and how many more; the cause is the first error."""
    error = HandlerFailed("Order", {"a": ERROR, "b": HOPELESS, "c": AGAIN}, ["d"])
    assert "Handling Order failed: ValueError: no (and 2 more)" == str(error)
    assert ERROR is error.__cause__
    assert ("d",) == error.succeeded
    assert "Handling Order failed: ValueError: no" == str(HandlerFailed("Order", {"a": ERROR}))


def test_a_recoverable_error_may_name_its_delay() -> None:
    """The delay is a named argument, in seconds, also of a subclass; None leaves it to the policy."""

    class Throttled(Recoverable):
        pass

    assert (5.0, None) == (Throttled("slow down", delay=5.0).delay, Throttled("slow down").delay)
    assert "slow down" == str(Throttled("slow down", delay=5.0))


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [(timedelta(minutes=2), 120.0), (5, 5.0), (0, 0.0), (-1, 0.0), (timedelta(seconds=-1), 0.0)],
)
def test_a_recoverable_error_takes_any_time(delay: float | timedelta, seconds: float) -> None:
    """Seconds or a timedelta; what would be over already is no wait."""
    assert seconds == Recoverable(delay=delay).delay


@pytest.mark.parametrize("delay", [math.nan, math.inf, -math.inf, pytest.param(10**400, id="huge"), "5", True])
def test_what_no_wait_can_be_is_left_to_the_policy(delay: Any) -> None:
    """The handler has failed, and wants to be tried again; what it said wrongly is noted on the error."""
    error = Recoverable("later", delay=delay)
    assert error.delay is None
    assert [f"Its delay of {delay!r} is no number of seconds, so the retry policy decides."] == error.__notes__


def test_a_recoverable_error_of_ones_own_may_have_a_delay_by_itself() -> None:
    """As an attribute of the class, and also if it does not call its parent's constructor."""

    class Throttled(Recoverable):
        delay = 30.0

    class Forgetful(Recoverable):
        def __init__(self) -> None: ...

    assert (30.0, 5.0, None) == (Throttled().delay, Throttled(delay=5).delay, Forgetful().delay)
