"""An app under test: in memory whatever it is configured with, its messages noted, nothing waited for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from postbus import ConfigurationError, Postbus, Recoverable, Unrecoverable, stamps
from postbus.testing import AppTest, DeliverTwice, FailAtRandom, RecordingTransport

pytest_plugins = ["pytester"]


@dataclass(frozen=True)
class Order:
    number: int


@dataclass(frozen=True)
class LargeOrder(Order):
    pass


@dataclass(frozen=True)
class Receipt:
    number: int


class Shop:
    """An app on brokers that are not there."""

    def __init__(self) -> None:
        self.recording = RecordingTransport()
        self.app = Postbus(
            transports={
                "orders": {
                    "dsn": "redis://127.0.0.1:1/x",
                    "rate_limit": "1/hour",
                    "options": {"group": "shop"},
                },
                "mail": "redis://127.0.0.1:1/mail",
                "archive": self.recording,
                "failed": "redis://127.0.0.1:1/failed",
            },
            routing={Order: "orders", Receipt: "mail"},
            failure_transport="failed",
            retry={"max_retries": 3, "delay": 3600, "factor": 24},
        )
        self.handled: list[object] = []
        self.fails = 0
        self.error: type[Exception] = LookupError

        @self.app.handler
        def place(order: Order) -> None:
            if self.fails:
                self.fails -= 1
                raise self.error("not there")
            self.handled.append(order)
            self.app.dispatch(Receipt(order.number), stamps.Delay(86_400))

        @self.app.handler
        def send(receipt: Receipt) -> None:
            self.handled.append(receipt)


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def test(shop: Shop) -> Iterator[AppTest]:
    with AppTest(shop.app) as test:
        yield test


def test_it_handles_what_waits_and_what_comes_of_it(shop: Shop, test: AppTest) -> None:
    """Delays of days, limits of rates and retries wait for nobody."""
    shop.fails = 3
    shop.app.dispatch_many([Order(1), Order(2)])
    test.settle()
    assert [Order(1), Order(2)] == sorted(
        (one for one in shop.handled if isinstance(one, Order)), key=lambda o: o.number
    )
    assert 2 == len([one for one in shop.handled if isinstance(one, Receipt)])
    test.settle()
    assert 4 == len(shop.handled)


def test_what_was_dispatched_is_asserted(shop: Shop, test: AppTest) -> None:
    """By class, number and content; also what handlers dispatched, and what was not sent anywhere."""
    shop.app.dispatch(Order(1))
    shop.app.dispatch(LargeOrder(2), stamps.HERE)
    assert [Order(1), LargeOrder(2)] == test.assert_dispatched(Order)
    assert [LargeOrder(2)] == test.assert_dispatched(Order, count=1, where=lambda order: order.number == 2)
    assert [] == test.assert_dispatched(Receipt, count=0, where=lambda receipt: receipt.number == 1)
    test.settle()
    test.assert_dispatched(Receipt, count=2)
    assert stamps.Delay(86_400) == test.dispatched[-1].last(stamps.Delay)
    with pytest.raises(
        AssertionError, match=r"Receipt was to be dispatched 3 times, and was 2 times. Dispatched: Order\("
    ):
        test.assert_dispatched(Receipt, count=3)
    with pytest.raises(AssertionError, match="Receipt was to be dispatched as was asked for at least once, and was 0"):
        test.assert_dispatched(Receipt, where=lambda receipt: receipt.number == 3)


def test_what_fails_for_good_fails_the_test(shop: Shop, test: AppTest) -> None:
    """Unless that is what it is about."""
    shop.fails, shop.error = 2, Unrecoverable
    shop.app.dispatch(Order(1))
    with pytest.raises(AssertionError, match=r"Order\(number=1\) failed for good: HandlerFailed: .* not there"):
        test.settle()
    shop.app.dispatch(Order(2))
    test.settle(allow_failures=True)
    assert [Order(1), Order(2)] == [message for message, _ in test.failed]
    assert 2 == len(shop.app.transport("failed").sent)  # type: ignore[attr-defined]
    test.settle()


def test_what_never_ends_is_told(shop: Shop, test: AppTest) -> None:
    """After a time, and what is left."""
    shop.fails, shop.error = 10**9, Recoverable
    shop.app.dispatch(Order(1))
    with pytest.raises(AssertionError, match=r"After 0.1 s there are still messages: Counts\(waiting="):
        test.settle(timeout=0.1)


def test_afterwards_the_app_is_what_it_was(shop: Shop) -> None:
    """Each test has queues of its own; what was given as an object stays open, and is there as before."""
    before = shop.app.transports
    for _ in range(2):
        with AppTest(shop.app) as test:
            shop.app.dispatch(Order(1))
            shop.app.dispatch(Receipt(1), stamps.TransportNames(["archive"]))
            assert 1 == len(shop.app.transport("orders").sent)  # type: ignore[attr-defined]
    assert (before, 2, 2) == (shop.app.transports, len(shop.recording.sent), len(test.dispatched))
    assert "redis://127.0.0.1:1/x" == shop.app.config.transports["orders"].dsn  # type: ignore[union-attr]
    assert not shop.app.observers


def test_another_place_needs_a_queue_for_each_transport(shop: Shop) -> None:
    """Else what fails would be handled again and again."""
    with pytest.raises(ConfigurationError, match=r"All 4 transports would be one queue. Write \{queue\} where"):
        AppTest(shop.app, "redis://localhost:6379/test")


def test_the_same_on_a_broker(shop: Shop, tmp_path: Path) -> None:
    """By the DSN alone; nothing is left there."""
    with AppTest(shop.app, f"sqlite:///{tmp_path}/queue.db?queue_name={{queue}}") as test:
        shop.app.dispatch(Receipt(1))
        shop.app.dispatch(Receipt(2), stamps.Delay(1))
        test.settle()
        shop.app.dispatch(Receipt(3), stamps.Delay(3600))
    assert [Receipt(1), Receipt(2)] == shop.handled
    with AppTest(shop.app, f"sqlite:///{tmp_path}/queue.db?queue_name={{queue}}") as test:
        test.settle()


# --- faults ----------------------------------------------------------------------------------------


def test_each_message_is_delivered_twice(shop: Shop) -> None:
    """Who dispatches does so once."""
    with AppTest(shop.app, middleware=[DeliverTwice()]) as test:
        shop.app.dispatch(Receipt(1))
        shop.app.dispatch(Receipt(2), stamps.HERE)
        test.settle()
    assert [Receipt(2), Receipt(1), Receipt(1)] == shop.handled


def test_a_share_of_messages_fails_at_random(shop: Shop) -> None:
    """Before or after they were handled; all of them are at last, and a seed makes the same faults."""
    counts: list[int] = []
    for _ in range(2):
        shop.handled.clear()
        with AppTest(shop.app, middleware=[FailAtRandom(0.5, seed=3)]) as test:
            shop.app.dispatch_many([Receipt(number) for number in range(100)])
            test.settle()
        assert {Receipt(number) for number in range(100)} == {*shop.handled}
        counts.append(len(shop.handled))
    assert (counts[0], True) == (counts[1], counts[0] > 100)
    with pytest.raises(ConfigurationError, match="takes a share from 0 to less than 1, got 1"):
        FailAtRandom(1)
    assert "FailAtRandom(0.1, seed=7)" == repr(FailAtRandom(seed=7))


# --- pytest ----------------------------------------------------------------------------------------

SHOP = """
from dataclasses import dataclass

from postbus import Postbus


@dataclass(frozen=True)
class Order:
    number: int


app = Postbus(
    transports={"orders": "redis://127.0.0.1:1/x", "failed": "redis://127.0.0.1:1/y"},
    routing={"*": "orders"},
    failure_transport="failed",
)
handled = []


@app.handler
def place(order: Order) -> None:
    handled.append(order)
"""

TEST = """
import shop_under_test as shop


def test_it(postbus):
    shop.handled.clear()
    shop.app.dispatch(shop.Order(1))
    postbus.assert_dispatched(shop.Order, count=1)
    postbus.settle()
    assert [shop.Order(1)] == shop.handled
    print(type(shop.app.transport("orders")).__name__)
"""


def run(pytester: pytest.Pytester, *arguments: str, conftest: str = "", ini: str = "shop_under_test:app") -> str:
    pytester.makepyfile(shop_under_test=SHOP, test_it=TEST)
    pytester.makeconftest(f'pytest_plugins = ["postbus.testing.plugin"]\n{conftest}')
    pytester.makeini(f"[pytest]\npostbus_app = {ini}\npythonpath = .\n")
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-s", *arguments).stdout.str()


@pytest.mark.slow
def test_a_test_takes_the_app_as_a_fixture(pytester: pytest.Pytester) -> None:
    """The configuration of pytest names it."""
    said = run(pytester)
    assert "1 passed" in said
    assert "InMemoryTransport" in said


@pytest.mark.slow
def test_a_fixture_may_make_the_app_and_say_where(pytester: pytest.Pytester) -> None:
    """One parameter has the same test on several brokers."""
    conftest = """
import pytest, shop_under_test

@pytest.fixture
def postbus_app():
    return shop_under_test.app

@pytest.fixture(params=["in-memory://", "sqlite:///queue.db?queue_name={queue}"])
def postbus_dsn(request):
    return request.param
"""
    said = run(pytester, conftest=conftest, ini="")
    assert "2 passed" in said
    assert "QueueTransport" in said


@pytest.mark.slow
def test_an_option_says_where(pytester: pytest.Pytester) -> None:
    """For all tests of a run."""
    said = run(pytester, "--postbus-dsn", "sqlite:///queue.db?queue_name={queue}")
    assert "1 passed" in said
    assert "InMemoryTransport" not in said


@pytest.mark.slow
def test_an_app_that_is_not_named_is_told(pytester: pytest.Pytester) -> None:
    """With what to write, and where."""
    assert "Which app is tested? Write postbus_app = 'module:attribute'" in run(pytester, ini="")
