"""Retries in real processes that are stopped and killed between two attempts: nothing is lost, nothing runs in vain."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.once]

PATIENCE = 60.0
"""Seconds after which something that must happen counts as never happening."""

SHOP = """
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from postbus import Limits, Postbus


class CardDeclined(Exception):
    pass


app = Postbus(config="postbus.toml")


def tell(what):
    with open("told", "a") as told:
        told.write(what + "\\n")


@dataclass(frozen=True)
class Order:
    number: int


@app.handler
def reserve(order: Order) -> None:
    tell("reserved")


@app.handler
def charge(order: Order) -> None:
    tell("tried")
    attempts = Path("told").read_text().split().count("tried")
    if attempts == 1:
        if os.environ.get("SIGNAL") == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        raise ConnectionResetError("closed by the other side")
    if attempts == 2 and os.environ.get("SIGNAL") == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("DECLINED"):
        raise CardDeclined("no money")
    tell("charged")


if __name__ == "__main__":
    app.dispatch(Order(1))
    app.worker("orders", limits=Limits(messages=1)).run()
"""

CONFIG = """
routing = {"*" = "orders"}
failure_transport = "failed"

[transports]
failed = "sqlite:///shop.db?queue_name=failed"

[transports.orders]
dsn = "sqlite:///shop.db?queue_name=orders&redeliver_timeout=1"

[transports.orders.retry]
max_retries = 3
delay = 3600
immediate = 3

[transports.orders.retry.errors]
"shop.CardDeclined" = "never"
"""


class Shop:
    """An app in a folder of its own, with a file that configures it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "shop.py").write_text(SHOP)
        (folder / "postbus.toml").write_text(CONFIG)

    def python(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**os.environ, "POSTBUS_STATE_DIR": str(self.folder), **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def consume(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "postbus", "--app", "shop:app", "consume", "orders", "--limit", "1", **environment)

    def dispatch(self) -> None:
        assert 0 == self.python("-c", "import shop; shop.app.dispatch(shop.Order(1))").returncode

    @property
    def told(self) -> Counter[str]:
        return Counter((self.folder / "told").read_text().split())


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_a_worker_that_is_stopped_between_two_attempts_hands_over(shop: Shop) -> None:
    """After SIGTERM the next worker makes the next attempt, at once, and runs only the handler that had failed."""
    shop.dispatch()
    first = shop.consume(SIGNAL="SIGTERM")
    second = shop.consume()

    assert (0, 0) == (first.returncode, second.returncode), first.stderr + second.stderr
    assert "in another worker, because this one stops (attempt 2): ConnectionResetError" in first.stderr
    assert {"reserved": 1, "tried": 2, "charged": 1} == shop.told


def test_a_worker_that_is_killed_between_two_attempts_loses_nothing(shop: Shop) -> None:
    """After SIGKILL the message comes again, as it was before these attempts."""
    shop.dispatch()
    first = shop.consume(SIGNAL="SIGKILL")
    second = shop.consume()

    assert (-9, 0) == (first.returncode, second.returncode), first.stderr + second.stderr
    assert "at once (attempt 2): ConnectionResetError" in first.stderr
    assert {"reserved": 2, "tried": 3, "charged": 1} == shop.told


def test_a_program_of_one_file_names_its_own_errors_in_the_configuration(shop: Shop) -> None:
    """Started as a program, the class that the file names is the one that its handlers raise."""
    done = shop.python("shop.py", DECLINED="yes")

    assert 0 == done.returncode, done.stderr
    assert "at once (attempt 2): ConnectionResetError" in done.stderr
    assert "in 'failed': CardDeclined: no money" in done.stderr
    assert {"reserved": 1, "tried": 2} == shop.told
