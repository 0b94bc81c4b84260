"""The example with three consumers: each gets every message once, and fails by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE, Popen
from uuid import uuid4

import pytest

from tests.brokers.rabbitmq import RabbitMQ
from tests.brokers.server import wait_until

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "generate_shot"
POSTBUS = [sys.executable, "-m", "postbus", "--app", "shots:app"]


@pytest.fixture
def settings(rabbitmq: RabbitMQ, tmp_path: Path) -> Iterator[dict[str, str]]:
    exchange = f"shots-{uuid4()}"
    yield os.environ | {
        "SHOTS_BROKER": rabbitmq.dsn,
        "SHOTS_EXCHANGE": exchange,
        "SHOTS_FOLDER": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(EXAMPLE), *sys.path]),
    }
    for consumer in ("work", "log", "mail"):
        rabbitmq.delete_queue(f"{exchange}.{consumer}")
    rabbitmq.manage("DELETE", f"exchanges/%2f/{exchange}")


@pytest.fixture
def consume(settings: dict[str, str]) -> Iterator[Callable[[str], Popen[str]]]:
    with ExitStack() as stack:

        def start(name: str) -> Popen[str]:
            process = Popen([*POSTBUS, "consume", name], env=settings, text=True, stderr=PIPE)
            stack.enter_context(process)
            stack.callback(process.terminate)
            return process

        yield start


def dispatch(settings: dict[str, str], scene: int) -> None:
    message = f'{{"scene": {scene}, "prompt": "A bus at dawn."}}'
    subprocess.run([*POSTBUS, "dispatch", "generate_shot", message], env=settings, check=True, timeout=60)


def test_one_message_feeds_three_consumers(settings, consume, tmp_path):
    """Each of them gets it from its own queue, also one that is started afterwards."""
    (tmp_path / "outbox").mkdir()
    consume("work")
    dispatch(settings, 7)
    consume("log")
    consume("mail")

    for file in ("scene-7.txt", "shots.log", "outbox/scene-7.eml"):
        wait_until((tmp_path / file).exists, f"There is no {file}.")
    assert "[A bus at dawn.]\n" == (tmp_path / "scene-7.txt").read_text()


def test_who_fails_is_tried_again_alone(settings, consume, tmp_path):
    """The retry of one consumer is no second message for the others."""
    mailing = consume("mail")
    consume("log")
    dispatch(settings, 1)
    for line in mailing.stderr:  # type: ignore[union-attr]
        if "Retrying" in line:
            break

    (tmp_path / "outbox").mkdir()

    wait_until((tmp_path / "outbox" / "scene-1.eml").exists, "The mail is not tried again.")
    dispatch(settings, 2)
    wait_until((tmp_path / "outbox" / "scene-2.eml").exists, "The second mail is not written.")
    wait_until(lambda: "scene 2" in (tmp_path / "shots.log").read_text(), "The second shot is not logged.")
    assert ["scene 1: A bus at dawn.", "scene 2: A bus at dawn."] == (tmp_path / "shots.log").read_text().splitlines()
