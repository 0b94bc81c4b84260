"""The kit works where an author of a plugin uses it: in a folder of their own, on a plugin that is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.once]

TESTS = """\
from uuid import uuid4

from postbus.testing import TransportContract
from postbus.transport import Guarantees


class TestMyPlugin(TransportContract):
    guarantees = Guarantees(
        durable=False,
        shared=False,
        ordering="fifo",
        lease=True,
        delivery_count=True,
        redelivery_on_crash=False,
    )
    short_lease = {"lease": "300ms"}
    short_delay = 0.1

    def dsn(self) -> str:
        return f"in-memory://{uuid4()}"
"""


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, where the in-memory plugin is installed, as its wheel would be."""
    metadata = folder / "site" / "postbus_in_memory-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: postbus-in-memory\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text("[postbus]\nin-memory = postbus_in_memory\n")
    path = [str(folder / "site"), *(str(Path(entry).resolve()) for entry in sys.path if entry)]
    environment = {**os.environ, "POSTBUS_CONTRACT": "", "PYTHONPATH": os.pathsep.join(path), **variables}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )


def test_twenty_lines_hold_an_installed_plugin_to_the_contract(tmp_path):
    """A subclass of at most 25 lines runs every rule, and says why it skips one."""
    (tmp_path / "test_my_plugin.py").write_text(TESTS)

    done = run(tmp_path, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider")

    assert len(TESTS.splitlines()) <= 25
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "Guarantees say shared=False." in done.stdout


def test_a_rule_that_fails_shows_what_it_compared(tmp_path):
    """The author reads what was promised and what came, not only that an assertion failed."""
    promising_too_much = TESTS.replace("shared=False", "shared=True").replace("crash=False", "crash=True")
    (tmp_path / "test_my_plugin.py").write_text(promising_too_much + "    patience = 0.5\n")

    done = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "had_fetched_comes_back")

    assert done.returncode == 1
    assert "assert 'fetched 3' == 'fetched 0'" in done.stdout
    assert "The contract promises, crashes-1, since 0.1: All that a process had fetched and not" in done.stdout


NEW = """
from postbus.testing.promises import promise


class TestMyPluginInTheNextVersion(TestMyPlugin):
    @promise("settling-99", since="9999.0")
    def test_what_no_broker_can_do(self):
        \"\"\"A message is handled before it is sent.\"\"\"
        assert self.connect().fetch(1, 0)
"""


def test_a_new_rule_warns_for_one_version(tmp_path):
    """Who breaks it is told at the end of the run, and when it will be an error; who wants it to be one now, has it."""
    (tmp_path / "test_my_plugin.py").write_text(TESTS + NEW)
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "no_broker_can_do")

    warned = run(tmp_path, *command)
    shutil.rmtree(tmp_path / "site")
    failed = run(tmp_path, *command, POSTBUS_CONTRACT="next")

    assert warned.returncode == 0, warned.stdout
    assert "1 xfailed" in warned.stdout
    assert (
        "WARNING: TestMyPluginInTheNextVersion breaks settling-99, since 9999.0: A message is handled before it is "
        "sent. An error with 9999.1, and with POSTBUS_CONTRACT=next." in warned.stdout
    )
    assert failed.returncode == 1, failed.stdout
    assert "The contract promises, settling-99, since 9999.0: A message is handled" in failed.stdout


def test_what_is_not_proven_is_said_at_the_end(tmp_path):
    """Who promises that others can use the broker, and gives none to stop, is told in a line what nobody has seen."""
    (tmp_path / "test_my_plugin.py").write_text(TESTS.replace("shared=False", "shared=True"))

    done = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "restart or others_wrote")

    assert done.returncode == 0, done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("NOT PROVEN for TestMyPlugin, which has no ")]
    assert ["broker()", "put_foreign()"] == [line.split(" has no ")[1].split(":")[0] for line in lines]
    assert "a transport goes on after a restart" in lines[0]
    assert "what others wrote comes as it is" in lines[1]


def test_without_pytest_the_contract_says_what_to_install(tmp_path):
    """Who has no pytest is told which extra brings it."""
    program = "import sys; sys.modules['pytest'] = None; from postbus.testing import TransportContract"

    done = run(tmp_path, "-c", program)

    assert 'ImportError: TransportContract needs pytest. Install it: pip install "postbus[testing]"' in done.stderr


def test_recording_transport_needs_no_pytest(tmp_path):
    """The part of the kit that users test with works without pytest."""
    program = (
        "import sys; sys.modules['pytest'] = None; from postbus.testing import RecordingTransport; RecordingTransport()"
    )

    done = run(tmp_path, "-c", program)

    assert (0, "") == (done.returncode, done.stderr)


FAULTS = """\
from uuid import uuid4

from postbus.testing import TransportFaults
from postbus.transport import Guarantees


class TestFaults(TransportFaults):
    guarantees = Guarantees(durable=True, lease=True)
    short_lease = {"redeliver_timeout": 1}

    def dsn(self) -> str:
        return f"sqlite:///{self.tmp_path}/messages.db?queue_name={uuid4()}"
"""


def test_a_dozen_lines_kill_workers(tmp_path):
    """An author's own tests kill and replace workers of a plugin, and say what came of every message."""
    (tmp_path / "test_my_plugin.py").write_text(FAULTS)

    done = run(tmp_path, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider")

    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("TestFaults, ")]
    assert ["TestFaults, 9 kills", "TestFaults, 3 restarts"] == [line.partition(":")[0] for line in lines]
    assert all(" 0 lost, " in line for line in lines)


FORGETFUL = """\
import postbus_sql
from postbus.hookspecs import hookimpl

CONTRACT = 1


@hookimpl
def register_transports(register):
    register("sqlite", make, options=postbus_sql.SqliteOptions, guarantees=postbus_sql.GUARANTEES)


def make(dsn, context):
    transport = postbus_sql.make_sqlite_transport(dsn, context)
    connect = transport._connect
    transport._connect = lambda: forgetful(connect())
    return transport


def forgetful(connection):
    kind = type(connection)

    class Forgetful(kind):
        def fetch(self, limit, wait):
            deliveries = kind.fetch(self, limit, wait)
            kind.ack(self, [delivery.tag for delivery in deliveries])
            return deliveries

        def ack(self, tags):
            return []

        reject = release = keepalive = ack

    connection.__class__ = Forgetful
    return connection
"""


def test_a_transport_that_forgets_is_found_out(tmp_path):
    """One that has messages settled before they are handled loses some with each worker that dies."""
    (tmp_path / "forgetful.py").write_text(FORGETFUL)
    impatient = "from postbus.testing.faults import stage\nstage.PATIENCE = 10\n"
    (tmp_path / "test_my_plugin.py").write_text(impatient + FAULTS + '    plugin = "forgetful"\n    kills = 2\n')

    done = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "killed")

    assert done.returncode == 1, done.stdout
    assert "messages are lost" in done.stdout or "Not every message at its end" in done.stdout
