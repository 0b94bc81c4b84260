"""The programs in examples/, each typed from its README into an empty folder, and what they promise besides."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any, Self
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import create_engine, text

from tests.brokers.network import reserve_port
from tests.brokers.postgresql import PostgreSql
from tests.brokers.programs import find
from tests.brokers.rabbitmq import RabbitMQ
from tests.brokers.server import wait_until
from tests.documentation.reader import Reader

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
POSTBUS = [sys.executable, "-m", "postbus"]

Follow = Callable[..., Path]


@pytest.fixture
def follow(tmp_path: Path) -> Iterator[Follow]:
    """Do what the README of an example says, in a copy of it; its programs run until the test is over."""
    with ExitStack() as stack:

        def follow(example: str, instead: dict[str, str] | None = None, **environment: str) -> Path:
            folder = tmp_path / example
            shutil.copytree(EXAMPLES / example, folder, ignore=shutil.ignore_patterns("__pycache__"))
            text = (folder / "README.md").read_text(encoding="utf-8")
            reader = stack.enter_context(Reader(folder, instead, **environment))
            reader.follow(text)
            assert text.count("```text") == reader.outputs
            return folder

        yield follow


def mails(folder: Path) -> list[str]:
    return [path.read_text() for path in (folder / "mail" / "new").iterdir()]


def test_an_sms(follow: Follow) -> None:
    """It waits for a worker, which sends it; one that can never be sent is kept."""
    follow("sms_notification")


@pytest.mark.once
def test_an_sms_through_redis(follow: Follow, redis_plain: Any) -> None:
    """One variable takes the same program to another broker."""
    follow("sms_notification", SMS_DSN=f"{redis_plain.dsn}/an-sms-of-the-example")


def test_an_image_is_handled_from_two_transports(follow: Follow, redis_plain: Any) -> None:
    """Each handler takes it from one of them, and fails by itself."""
    from PIL import Image

    folder = follow("image_upload", REDIS=redis_plain.dsn)

    with Image.open(folder / "thumbnails" / "apple.png") as thumbnail:
        assert (200, 133) == thumbnail.size
    assert ["apple.png"] == [path.name for path in (folder / "thumbnails").iterdir()]


def test_who_is_registered_is_welcomed_once(follow: Follow) -> None:
    """A registration that is rolled back sends nothing."""
    [mail] = mails(follow("user_registration"))
    assert "ada@example.com" in mail


@pytest.fixture
def schema(postgresql: PostgreSql) -> Iterator[str]:
    """Make a schema, and give the URL that leads SQLAlchemy into it."""
    with postgresql.own_schema() as name:
        dsn = postgresql.dsn.replace("postgresql://", "postgresql+psycopg://")
        yield f"{dsn}?options={quote(f'-csearch_path={name}')}"


@pytest.mark.once
def test_who_is_registered_in_postgresql_is_welcomed_once(schema: str, follow: Follow) -> None:
    """The same program on a server."""
    [mail] = mails(follow("user_registration", USERS_DATABASE=schema))
    assert "ada@example.com" in mail


@pytest.fixture
def exchange(rabbitmq: RabbitMQ) -> Iterator[str]:
    """Delete the exchange and the queues of the example, behind its programs."""
    yield "pdf"
    for consumer in ("work", "log", "mail"):
        rabbitmq.delete_queue(f"pdf.{consumer}")
    rabbitmq.manage("DELETE", "exchanges/%2f/pdf")


def test_consumers_of_one_topic_exchange_hear_what_they_are_bound_to(
    rabbitmq: RabbitMQ, exchange: str, follow: Follow
) -> None:
    """The log hears of both messages, the mail of one, and each of them once."""
    folder = follow("pdf_job", RABBITMQ=rabbitmq.dsn)

    bound = rabbitmq.manage("GET", f"exchanges/%2f/{exchange}/bindings/source")
    keys = {("pdf.work", "pdf.wanted"), ("pdf.log", "pdf.*"), ("pdf.mail", "pdf.made")}
    assert keys == {(binding["destination"], binding["routing_key"]) for binding in bound}
    assert 1 == len(mails(folder))
    assert (folder / "pdfs" / "letter.pdf").read_bytes().startswith(b"%PDF-1.4")


def test_a_report_is_written_in_the_background(follow: Follow) -> None:
    """Its state is there at once, and says in the end that it is done."""
    find("curl", package="curl")
    here = f"127.0.0.1:{reserve_port()}"
    follow("background_request", {"localhost:8000": here, "uvicorn web:web": f"uvicorn web:web --port {here[10:]}"})


class Reports:
    """The example of reports: its web application, and workers, as processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = shutil.copytree(EXAMPLES / "background_request", folder)
        self._url = f"http://127.0.0.1:{reserve_port()}"
        self._engine = create_engine(f"sqlite:///{folder}/reports.db")
        self._open = ExitStack()

    def __enter__(self) -> Self:
        subprocess.run([sys.executable, "make_tables.py"], cwd=self._folder, check=True, timeout=60)
        subprocess.run([*POSTBUS, "setup"], cwd=self._folder, check=True, stdout=DEVNULL, timeout=60)
        self._begin("-m", "uvicorn", "web:web", "--port", self._url.rpartition(":")[2])
        wait_until(self._answers, "The web application does not begin.")
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()
        self._engine.dispose()

    def ask(self, *, pages: int) -> None:
        """Ask for a report."""
        assert httpx.post(f"{self._url}/reports", json={"pages": pages}).status_code == 202

    def state(self) -> tuple[str, int]:
        """Look how far it is."""
        found = httpx.get(f"{self._url}/reports/1").raise_for_status().json()
        return found["state"], found["written"]

    def begin_worker(self, *, seconds_per_page: float) -> Popen[bytes]:
        return self._begin("-m", "postbus", "consume", "reports", REPORTS_SECONDS_PER_PAGE=str(seconds_per_page))

    def end_lease(self) -> None:
        """Let it be long ago that a worker took the message."""
        with self._engine.begin() as connection:
            connection.execute(text("UPDATE messenger_messages SET delivered_at = '2026-01-01 00:00:00'"))

    def _begin(self, *arguments: str, **environment: str) -> Popen[bytes]:
        process = Popen(
            [sys.executable, *arguments], cwd=self._folder, env=os.environ | environment, stdout=DEVNULL, stderr=DEVNULL
        )
        self._open.callback(process.wait)
        self._open.callback(process.kill)
        return process

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self._url}/reports/1").status_code == 404
        except httpx.ConnectError:
            return False


@pytest.fixture
def reports(tmp_path: Path) -> Iterator[Reports]:
    with Reports(tmp_path / "background_request") as reports:
        yield reports


def test_a_report_is_seen_while_it_is_written_and_survives_its_worker(reports: Reports) -> None:
    """Who looks sees how far it is; when the worker is killed, another one writes the rest."""
    reports.ask(pages=2)
    assert ("waiting", 0) == reports.state()

    worker = reports.begin_worker(seconds_per_page=3600)
    wait_until(lambda: reports.state() == ("running", 0), "It is not running.")
    worker.kill()
    worker.wait()
    assert ("running", 0) == reports.state()

    reports.end_lease()
    reports.begin_worker(seconds_per_page=0)
    wait_until(lambda: reports.state() == ("done", 2), "Nobody goes on.")


def test_a_report_that_cannot_be_written_has_failed(reports: Reports) -> None:
    """Who looks sees that it is tried no more, and how far it came."""
    reports.ask(pages=13)
    reports.begin_worker(seconds_per_page=0)
    wait_until(lambda: reports.state() == ("failed", 12), "It has not failed.")
