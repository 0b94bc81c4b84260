"""Where the brokers come from, and that none of them outlives the tests, which other runs of pytest show."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from tests.brokers.broker import Brokers
from tests.brokers.redis import OwnRedis, RedisPlain
from tests.brokers.server import wait_until

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.once]


def start_pytest(folder: Path, test: str, environment: Mapping[str, str] | None = None) -> Popen[str]:
    """Start another run of pytest, of this one test."""
    (folder / "test_inner.py").write_text(test)
    (folder / "pytest.ini").touch()
    command = [sys.executable, "-m", "pytest", "-p", "tests.brokers.plugin", "-q", "-s", "-rs", "test_inner.py"]
    given = {name: value for name, value in os.environ.items() if not name.startswith("POSTBUS_")}
    full = given | {"PYTHONPATH": str(ROOT)} | dict(environment or {})
    return Popen(command, cwd=folder, env=full, stdout=PIPE, stderr=subprocess.STDOUT, text=True)


def run_pytest(folder: Path, test: str, environment: Mapping[str, str] | None = None) -> str:
    """Return what another run of pytest says about this one test."""
    with start_pytest(folder, test, environment) as process:
        return process.communicate(timeout=60)[0]


@pytest.mark.parametrize("fixture", ["redis_cluster", "rabbitmq", "own_redis"])
def test_a_missing_program_skips(tmp_path: Path, fixture: str) -> None:
    """Without the program, a test is skipped, with one line that says what to do."""
    output = run_pytest(tmp_path, f"def test_it({fixture}): pass", {"PATH": str(tmp_path)})

    assert "1 skipped" in output
    assert "is not installed. Install it, on Debian with: apt-get install" in output


def test_a_missing_program_fails_where_brokers_are_required(tmp_path: Path) -> None:
    """Where brokers are required, it fails with the same line."""
    environment = {"PATH": str(tmp_path), "POSTBUS_REQUIRE_BROKERS": "1"}
    output = run_pytest(tmp_path, "def test_it(redis_plain): pass", environment)

    assert "1 error" in output
    assert "redis-server is not installed. Install it, on Debian with: apt-get install redis-server" in output


def test_a_given_broker_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that the environment gives is used as it is, and is not stopped."""
    monkeypatch.setenv("POSTBUS_TEST_REDIS_DSN", "redis://given:6379")
    broker = RedisPlain(Brokers())

    assert (broker.dsn, broker.servers) == ("redis://given:6379", [])
    for way in broker.stop, broker.kill, broker.pause, broker.restart:
        with pytest.raises(pytest.skip.Exception, match="POSTBUS_TEST_REDIS_DSN gives the broker"):
            way()


def test_a_client_that_is_left_fails_its_test(tmp_path: Path) -> None:
    """Where a broker's client has a thread that nobody ends, the test that opened it is told, and not a later one."""
    test = """
import threading
from tests.brokers import plugin

plugin.LEAVING = 0.1

def test_on_kafka(kafka_plain):
    threading.Thread(name="kafka-io-left", target=threading.Event().wait, daemon=True).start()

def test_other(): pass
"""
    output = run_pytest(tmp_path, test, {"POSTBUS_TEST_KAFKA_DSN": "kafka://given:9092"})

    assert "2 passed" in output
    assert "1 error" in output
    assert "test_on_kafka leaves clients behind, which nobody has closed: kafka-io-left" in output


def test_nothing_starts_for_other_tests(tmp_path: Path) -> None:
    """A test that asks for a broker is marked, so that it can be left out; then no broker starts."""
    test = """
import pytest

def test_asks(redis_plain): pass

@pytest.mark.parametrize("variant", ["redis_plain"])
def test_asks_by_name(request, variant): request.getfixturevalue(variant)

def test_other(): pass
"""
    with start_pytest(tmp_path, test, {"PYTEST_ADDOPTS": "-m 'not broker'", "PATH": str(tmp_path)}) as process:
        assert "1 passed, 2 deselected" in process.communicate(timeout=60)[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_server_does_not_outlive_the_tests(own_redis: OwnRedis, tmp_path: Path, number: signal.Signals) -> None:
    """When a test run is interrupted or killed, its servers and their folders are gone soon after."""
    test = """
import signal, threading

def test_it(redis_plain, own_redis):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    own_redis.restart()
    own_redis.pause()
    with redis_plain.partition():
        for broker in redis_plain, own_redis:
            print(f"<{broker.servers[0].folder}> <{broker.servers[0]._process.pid}>", flush=True)
        print("<>", flush=True)
        threading.Event().wait()
"""
    with start_pytest(tmp_path, test) as process:
        assert process.stdout is not None
        said = ""
        while "<>" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        process.send_signal(number)

    found = re.findall("<(.+)> <(.+)>", said)
    assert 2 == len(found)
    for folder, pid in found:
        wait_until(lambda folder=folder: not Path(folder).exists(), f"{folder} is still there.")
        wait_until(lambda pid=pid: has_ended(pid), f"Process {pid} is still there.")


def has_ended(pid: str) -> bool:
    """Tell whether a process is over, even if nobody has asked how it ended."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", pid], stdout=PIPE, text=True)
    return done.stdout.strip()[:1] in ("", "Z")
