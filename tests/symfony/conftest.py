"""A real Symfony Messenger application, and a queue that it shares with one of ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import programs
from tests.brokers.broker import Brokers

FOLDER = Path(__file__).parent
LIBRARY = Path("/usr/share/php")
"""Where Debian's packages put what PHP includes."""

PACKAGES = (
    "php-cli php-symfony-messenger php-symfony-amqp-messenger php-symfony-redis-messenger "
    "php-symfony-beanstalkd-messenger php-symfony-doctrine-messenger php-amqp php-redis php-sqlite3 php-pgsql "
    "php-symfony-serializer php-symfony-property-access php-symfony-event-dispatcher php-symfony-console "
    "php-symfony-dependency-injection php-symfony-error-handler php-doctrine-dbal"
).split()

STAMP = "X-Message-Stamp-Symfony\\Component\\Messenger\\Stamp\\"


@dataclass(frozen=True)
class Said:
    """What the Symfony application says of a message: it was received, was handled, or has failed."""

    what: str
    type: str
    message: Any
    headers: Mapping[str, str]

    def stamps(self, name: str) -> list[Any]:
        """Return the stamps of a class of Symfony's, as they would be sent."""
        found: list[Any] = json.loads(self.headers.get(STAMP + name, "[]"))
        return found


@dataclass(frozen=True)
class Shared:
    """What both applications use: a queue and a failure transport, by the DSNs of each side."""

    there: Mapping[str, str]
    here: Mapping[str, str]
    database: Path
    """A file, where no other database is named."""
    server: str | None = None
    """The database server, as Doctrine names it."""


@dataclass(frozen=True)
class Symfony:
    """The application in app.php."""

    php: str
    shared: Shared

    def run(self, command: str, *arguments: str, **options: object) -> str:
        """Run one of its commands to the end, and return what it wrote."""
        config = {
            "transports": self.shared.there,
            "database": self.shared.server or f"sqlite:///{self.shared.database}",
            "error_handler": True,
            "snake_case": False,
            "fail": False,
            "max_retries": 0,
            "retry_delay": 0,
            **options,
        }
        arguments = (f"-dinclude_path={LIBRARY}", str(FOLDER / "app.php"), json.dumps(config), command, *arguments)
        done = subprocess.run([self.php, *arguments], capture_output=True, text=True, timeout=90, check=False)
        assert 0 == done.returncode, done.stdout + done.stderr
        return done.stdout + done.stderr

    def dispatch(self, *messages: Mapping[str, object], **options: object) -> None:
        """Send messages to its transport ``async``."""
        self.run("dispatch", *map(json.dumps, messages), **options)

    def consume(self, transport: str, count: int = 1, **options: object) -> list[Said]:
        """Let a worker take so many messages."""
        return _said(self.run("consume", transport, str(count), **options))

    def retry_failed(self, *ids: str, **options: object) -> list[Said]:
        """Run ``messenger:failed:retry``."""
        return _said(self.run("failed:retry", *ids, **options))


def _said(output: str) -> list[Said]:
    return [Said(**json.loads(line)) for line in output.splitlines() if line.startswith("{")]


@pytest.fixture(scope="session")
def php() -> str:
    """Return the path of a PHP that has Symfony Messenger, installed first where that is possible."""
    programs.provide(_is_complete, *PACKAGES)
    if not _is_complete():
        programs.missing(f"Symfony Messenger for PHP is not there. On Debian: apt-get install {' '.join(PACKAGES)}")
    return shutil.which("php") or "php"


def _is_complete() -> bool:
    """Say whether app.php finds all that it needs."""
    program = shutil.which("php")
    command = [program or "php", f"-dinclude_path={LIBRARY}", str(FOLDER / "app.php"), "check"]
    return program is not None and subprocess.run(command, capture_output=True).returncode == 0


def make_doctrine(database: Path) -> Shared:
    """Return a queue and a failure transport in a table of SQLite."""
    return Shared(
        there={"async": "doctrine://default", "failed": "doctrine://default?queue_name=failed"},
        here={"async": f"sqlite:///{database}", "failed": f"sqlite:///{database}?queue_name=failed"},
        database=database,
    )


def _make_postgresql(database: Path, brokers: Callable[[], Brokers]) -> Shared:
    dsn, table = brokers()["postgresql"].dsn, f"symfony_{uuid.uuid4().hex[:12]}"
    queues = {"async": "default", "failed": "failed"}
    return Shared(
        there={key: f"doctrine://default?table_name={table}&queue_name={name}" for key, name in queues.items()},
        here={key: f"{dsn}?table_name={table}&queue_name={name}" for key, name in queues.items()},
        database=database,
        server=dsn.replace("postgresql:", "pgsql:", 1),
    )


def _make_redis(options: str) -> Callable[[Path, Callable[[], Brokers]], Shared]:
    def make(database: Path, brokers: Callable[[], Brokers]) -> Shared:
        dsn, name = brokers()["redis_plain"].dsn, f"symfony-{uuid.uuid4().hex}"
        # Who shares a queue shares a consumer group; this is the one that Symfony takes by itself.
        dsns = {"async": f"{dsn}/{name}/symfony", "failed": f"{dsn}/{name}-failed/symfony"}
        there = {key: f"{dsn}/php?delete_after_ack=true{options}" for key, dsn in dsns.items()}
        return Shared(there, dsns, database)

    return make


def _make_amqp(database: Path, brokers: Callable[[], Brokers]) -> Shared:
    dsn, name = brokers()["rabbitmq"].dsn, f"symfony-{uuid.uuid4().hex}"
    dsns = {"async": f"{dsn}/{name}", "failed": f"{dsn}/{name}-failed"}
    return Shared(dsns, dsns, database)


def _make_beanstalkd(database: Path, brokers: Callable[[], Brokers]) -> Shared:
    dsn, name = brokers()["beanstalkd"].dsn, f"symfony-{uuid.uuid4().hex}"
    dsns = {"async": f"{dsn}?tube_name={name}&ttr=60", "failed": f"{dsn}?tube_name={name}-failed&ttr=60"}
    return Shared(dsns, dsns, database)


LAYOUTS: Mapping[str, Callable[[Path, Callable[[], Brokers]], Shared]] = {
    "doctrine": lambda database, brokers: make_doctrine(database),
    "doctrine-postgresql": _make_postgresql,
    "redis": _make_redis("&serializer=0"),
    "redis-php-strings": _make_redis(""),
    "amqp": _make_amqp,
    "beanstalkd": _make_beanstalkd,
}


@pytest.fixture(params=[pytest.param(name, marks=[] if name == "doctrine" else pytest.mark.broker) for name in LAYOUTS])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Shared:
    """Give a queue and a failure transport on each broker."""
    return LAYOUTS[request.param](tmp_path / "queue.db", lambda: request.getfixturevalue("brokers"))


@pytest.fixture
def symfony(php: str, shared: Shared) -> Symfony:
    """Give the Symfony application, set up."""
    application = Symfony(php, shared)
    application.run("setup")
    return application
