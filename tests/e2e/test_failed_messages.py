"""``postbus failed`` over many messages on real brokers, in processes that are interrupted and killed: none is lost."""

from __future__ import annotations

import json
import os
import pty
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any
from uuid import uuid4

import pytest

from postbus import Envelope, Postbus, stamps
from postbus.transport import Counts

pytestmark = [pytest.mark.slow, pytest.mark.once]

PATIENCE = 60
"""Seconds after which something that must happen counts as never happening."""

MANY = 350

SHOP = """
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from postbus import Postbus

ORDERS, FAILED = os.environ["ORDERS_DSN"], os.environ["FAILED_DSN"]
app = Postbus(
    transports={"orders": ORDERS, "failed": FAILED},
    routing={"*": "orders"},
    failure_transport="failed",
    retry={"max_retries": 0},
)
at, name = os.environ.get("AT"), os.environ.get("SIGNAL")
# A shell lets its background jobs ignore Ctrl-C, and with them what they start: the tests, and this.
signal.signal(signal.SIGINT, signal.default_int_handler)


def tell(number):
    with open("handled", "a") as handled:
        handled.write(f"{number}\\n")


@app.message
@dataclass(frozen=True)
class Order:
    number: int


@app.handler
def handle(order: Order) -> None:
    if Path("bad").exists():
        raise ValueError("it is a bad day")
    if at == "handling" and order.number == 150:
        os.kill(os.getpid(), getattr(signal, name))
    tell(order.number)


if at == "removing":
    # Copies are stored, and what they are copies of is still there.
    connection, removals = app.transport("failed").connection, []
    remove = connection.remove

    def die(ids):
        removals.append(ids)
        if len(removals) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return remove(ids)

    connection.remove = die
"""


@dataclass(frozen=True)
class Order:
    number: int


class Shop:
    """An app in a folder of its own, whose failed messages are on a broker."""

    def __init__(self, folder: Path, orders: str, failed: str) -> None:
        self.folder = folder
        (folder / "shop.py").write_text(SHOP)
        state = {"POSTBUS_STATE_DIR": str(folder), "ORDERS_DSN": orders, "FAILED_DSN": failed}
        self.environment = {**os.environ, **state, "PYTHONPATH": str(folder)}
        self.app = Postbus(transports={"orders": orders, "failed": failed})
        self.app.message("shop.Order")(Order)

    def start(self, *arguments: str, **environment: str) -> Popen[str]:
        command = [sys.executable, "-m", "postbus", "--app", "shop:app", *arguments]
        environment = {**self.environment, **environment}
        return Popen(command, cwd=self.folder, env=environment, text=True, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)

    def run(self, *arguments: str, exit_code: int = 0, **environment: str) -> tuple[str, str]:
        process = self.start(*arguments, **environment)
        output, errors = process.communicate(timeout=PATIENCE)
        assert exit_code == process.returncode, output + errors
        assert "Traceback" not in errors
        return output, errors

    def bury(self, number: int) -> None:
        """Put orders where they lie when they have finally failed."""
        to_failed = (stamps.TransportNames(["failed"]), stamps.Buried("orders"))
        self.app.dispatch_many(Envelope.wrap(Order(n), *to_failed) for n in range(number))

    def count(self, name: str) -> int:
        """Return how many messages a transport has, in whatever state."""
        transport: Any = self.app.transport(name)
        counts: Counts = transport.connection.count()
        return counts.waiting + (counts.delayed or 0) + (counts.in_flight or 0)

    @property
    def handled(self) -> Counter[int]:
        path = self.folder / "handled"
        return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


@pytest.fixture(params=["sqlite", "redis_plain"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    queues = ("orders", "failed")
    if request.param == "sqlite":
        orders, failed = (f"sqlite:///{tmp_path}/shop.db?queue_name={queue}" for queue in queues)
    else:
        name, broker = uuid4().hex, request.getfixturevalue(request.param)
        orders, failed = (f"{broker.dsn}/{name}-{queue}" for queue in queues)
    shop = Shop(tmp_path, orders, failed)
    with shop.app:
        yield shop


def test_many_fail_again_and_are_handled_at_last(shop: Shop) -> None:
    """Each is tried once, kept, tried again, and gone; nothing is counted twice."""
    shop.bury(MANY)
    (shop.folder / "bad").touch()
    output, errors = shop.run("failed", "retry", "--all", exit_code=1)
    assert MANY == output.count("failed again, kept as")
    assert f"{MANY} messages: {MANY} failed again." in errors
    assert MANY == shop.count("failed")

    (shop.folder / "bad").unlink()
    shop.run("failed", "retry", "--all")
    assert 0 == shop.count("failed")
    assert dict.fromkeys(range(MANY), 1) == shop.handled


def test_an_interrupted_retry_repeats_nothing(shop: Shop) -> None:
    """Ctrl+C keeps the message in hand, and what was handled before is settled: each is handled once."""
    shop.bury(MANY)
    output, _ = shop.run("failed", "retry", "--all", exit_code=130, AT="handling", SIGNAL="SIGINT")
    assert 150 == output.count(" handled")
    assert MANY - 150 == shop.count("failed")

    shop.run("failed", "retry", "--all")
    assert 0 == shop.count("failed")
    assert dict.fromkeys(range(MANY), 1) == shop.handled


def test_a_killed_retry_loses_nothing(shop: Shop) -> None:
    """After SIGKILL each message is handled or still there, and at most a batch is both."""
    shop.bury(MANY)
    shop.run("failed", "retry", "--all", exit_code=-signal.SIGKILL, AT="handling", SIGNAL="SIGKILL")
    assert 150 == shop.handled.total()
    assert MANY - 150 <= shop.count("failed") <= MANY - 150 + 100

    shop.run("failed", "retry", "--all")
    assert 0 == shop.count("failed")
    assert set(range(MANY)) == set(shop.handled)
    assert shop.handled.total() <= MANY + 100


def test_a_retry_that_is_killed_after_storing_copies_loses_nothing(shop: Shop) -> None:
    """Copies are stored before originals are removed, so at most a batch is there twice."""
    shop.bury(MANY)
    (shop.folder / "bad").touch()
    shop.run("failed", "retry", "--all", exit_code=-signal.SIGKILL, AT="removing")
    assert MANY < shop.count("failed") <= MANY + 100

    (shop.folder / "bad").unlink()
    shop.run("failed", "retry", "--all")
    assert set(range(MANY)) == set(shop.handled)


def test_sending_back_that_is_killed_loses_nothing(shop: Shop) -> None:
    """What was sent back is removed after that, so at most a batch is in both places."""
    shop.bury(MANY)
    shop.run("failed", "retry", "--all", "--send-back", exit_code=-signal.SIGKILL, AT="removing")
    assert (200, MANY - 100) == (shop.count("orders"), shop.count("failed"))

    _, errors = shop.run("failed", "retry", "--all", "--send-back")
    assert f"{MANY - 100} messages: {MANY - 100} sent back." in errors
    assert (MANY + 100, 0) == (shop.count("orders"), shop.count("failed"))
    shop.run("consume", "orders", "--limit", str(MANY + 100))
    assert set(range(MANY)) == set(shop.handled)


@pytest.mark.parametrize("shop", ["redis_plain"], indirect=True)
def test_removing_in_the_middle(shop: Shop) -> None:
    """What is removed is gone, what is left is listed, and goes on behind any of it."""
    shop.bury(MANY)
    shown, _ = shop.run("failed", "show", "--max", str(MANY), "--format", "json")
    ids = [line["id"] for line in json.loads(shown)]
    assert MANY == len(set(ids))

    shop.run("failed", "remove", *ids[50:60], "--force")
    shown, _ = shop.run("failed", "show", "--max", str(MANY), "--after", ids[49], "--format", "json")
    assert ids[60:] == [line["id"] for line in json.loads(shown)]
    output, _ = shop.run("failed", "remove", "--all", "--force")
    assert f"Removed {MANY - 10} messages from 'failed'." in output
    assert 0 == shop.count("failed")


@pytest.mark.parametrize("shop", ["sqlite"], indirect=True)
def test_somebody_who_watches_sees_how_far_it_is(shop: Shop, tmp_path: Path) -> None:
    """On a terminal there is a line with how many of how many; what goes to a file stays as it is."""
    shop.bury(MANY)
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "postbus", "--app", "shop:app", "failed", "retry", "--all"]
    environment = {**shop.environment, "TERM": "xterm", "COLUMNS": "100"}
    with (tmp_path / "output").open("w") as output:
        process = Popen(command, cwd=tmp_path, env=environment, stdin=DEVNULL, stdout=output, stderr=its)
    os.close(its)
    shown = b""
    try:
        while some := os.read(ours, 65536):
            shown += some
    except OSError:  # It was closed at the other end.
        pass
    os.close(ours)

    assert 0 == process.wait(PATIENCE)
    assert b"Retrying" in shown
    assert f"/{MANY}".encode() in shown
    lines = (tmp_path / "output").read_text().splitlines()
    assert [f"{n + 1} shop.Order handled" for n in range(MANY)] == lines


@pytest.mark.parametrize("shop", ["rabbitmq"], indirect=True)
def test_a_broker_that_cannot_show_messages_says_what_to_do(shop: Shop) -> None:
    """RabbitMQ shows nothing without delivering it; all that failed is retried by consuming it."""
    shop.bury(1)
    for command in (["show"], ["retry", "--all"], ["remove", "--all", "--force"]):
        _, errors = shop.run("failed", *command, exit_code=2)
        assert "cannot show or remove single messages. To retry them all: postbus consume failed" in errors

    shop.run("consume", "failed", "--limit", "1")
    assert {0: 1} == shop.handled
