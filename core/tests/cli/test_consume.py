"""``postbus consume``: which transports, how long, and what it says."""

from __future__ import annotations

import json
import pwd
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from postbus.worker.signals import STOP_SIGNALS

if TYPE_CHECKING:
    from conftest import Shop


def test_it_handles_what_waits(shop: Shop) -> None:
    """A worker handles messages until its limit is reached; then the exit code is 0."""
    shop.dispatch(1, 2, 3)
    result = shop.run("consume", "orders", "--limit", "2")

    assert 0 == result.exit_code
    assert "Consuming 'orders'." in result.stderr
    assert "after 2 messages or on `postbus stop-workers`" in result.stderr
    assert "2 handled, 0 failed" in result.stderr
    assert 1 == shop.json("stats")["transports"]["orders"]["waiting"]


def test_nothing_is_reset_if_so_told(shop: Shop) -> None:
    """What handlers need is reset after each message, but not with ``--no-reset``."""
    shop.append(
        """
        class Session:
            def reset(self) -> None:
                print("reset")


        app.provide(Session, Session)


        @app.handler
        def keep(order: OrderPlaced, session: Session) -> None:
            print("kept")
        """
    )
    shop.dispatch(1, 2, 3, 4)
    assert ["kept", "reset", "kept", "reset"] == shop.run("consume", "orders", "-l", "2").stdout.splitlines()
    assert ["kept", "kept"] == shop.run("consume", "orders", "-l", "2", "--no-reset").stdout.splitlines()


def test_it_shows_each_message_when_asked(shop: Shop) -> None:
    """With -v there is a line for each message; without, only the start and the end."""
    shop.dispatch(1, 2)

    assert "Handled" not in shop.run("consume", "orders", "-l", "1").stderr
    assert "INFO Handled OrderPlaced" in shop.run("consume", "orders", "-l", "1", "-v").stderr


def test_it_sums_up_when_asked(shop: Shop) -> None:
    """With -v the end has a line for each transport: what became of its messages, and how long they took."""
    shop.dispatch(1, 2, 13)
    lines = shop.run("consume", "orders", "-l", "3", "-v").stderr.splitlines()

    assert "2 handled, 1 failed" in lines[-2]
    assert lines[-1].startswith("orders: 2 handled (")
    assert "1 buried, on average in" in lines[-1]
    assert "the slowest, OrderPlaced, in" in lines[-1]


def test_a_failure_is_shown_without_asking(shop: Shop) -> None:
    """A message that is buried is an error in the log at any verbosity."""
    shop.dispatch(13)

    assert "ERROR Burying OrderPlaced" in shop.run("consume", "orders", "-f", "1").stderr


def test_every_line_of_a_json_log_is_json(shop: Shop) -> None:
    """With ``--log-format json``, all that goes to stderr is one object per line, with the message's ids."""
    shop.dispatch(1, 13)
    result = shop.run("consume", "orders", "-l", "2", "-v", "--log-format", "json")

    records = [json.loads(line) for line in result.stderr.splitlines()]
    assert {"transports", "message_id", "correlation_id", "transport", "handled"} <= set().union(*records)


def test_signals_are_as_before(shop: Shop) -> None:
    """Whoever runs the command in a process of his own, which goes on afterwards, has his signals back."""
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    for arguments in [("orders", "--time-limit", "0.01"), ("nowhere",)]:
        shop.run("consume", *arguments)
        assert before == [signal.getsignal(number) for number in STOP_SIGNALS]


def test_all_leaves_failure_transports_out(shop: Shop) -> None:
    """``--all`` consumes everything but failure transports and what handles at once."""
    result = shop.run("consume", "--all", "-t", "0.01")

    assert 0 == result.exit_code
    assert "Consuming 'orders', then 'mails'." in result.stderr


def test_all_but_some(shop: Shop) -> None:
    """``--exclude`` takes transports out of ``--all``."""
    assert "Consuming 'mails'." in shop.run("consume", "--all", "--exclude", "orders", "-t", "0.01").stderr


@pytest.mark.parametrize(
    ("arguments", "consumed"),
    [
        (["m.*"], "'mails'"),
        ([".*"], "'orders', then 'mails'"),
        (["mai.+", "orders"], "'mails', then 'orders'"),
        (["mails", ".*s"], "'mails', then 'orders'"),
        (["mails|orders", "--exclude", "m.*"], "'orders'"),
        (["failed", ".*", "--exclude", "orders"], "'failed', then 'mails'"),
        (["--all", "--exclude", "or[a-z]*"], "'mails'"),
    ],
)
def test_regular_expressions(shop: Shop, arguments: list[str], consumed: str) -> None:
    """One stands for all that a worker is for and whose whole name it fits, in their order; each is consumed once."""
    assert f"Consuming {consumed}." in shop.run("consume", *arguments, "-t", "0.01").stderr


def test_a_failure_transport_by_name(shop: Shop) -> None:
    """Whoever names a failure transport consumes it."""
    assert 0 == shop.run("consume", "failed", "-t", "0.01").exit_code


def test_without_names_the_only_transport(shop: Shop) -> None:
    """If there is only one transport to consume, it need not be named."""
    shop.write(
        'app = "single:app"\nfailure_transport = "failed"\n[transports]\nqueue = "in-memory://"\nfailed = "in-memory://"\n',
        "postbus.toml",
    )
    shop.write(
        "from postbus import Postbus\n\napp = Postbus()\n\n@app.handler(handles='*')\ndef note(it): pass", "single.py"
    )
    result = shop.run("consume", "-t", "0.01", app="")

    assert "Consuming 'queue'." in result.stderr


def test_without_names_and_without_a_terminal(shop: Shop) -> None:
    """With several transports and nobody to ask, it does not idle: it says what to add."""
    result = shop.run("consume")

    assert 2 == result.exit_code
    assert "Error: Name the transports to consume, or add --all. Transports: orders, mails.\n" == result.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["ordesr"], "There is no transport 'ordesr'. Did you mean 'orders'? Transports: orders, mails, failed, now."),
        (["now"], "Transport 'now' handles at once, so there is nothing to consume."),
        (["orders", "--all"], "Give names or --all, not both."),
        (["--exclude", "orders"], "--exclude goes together with --all, or with NAMES."),
        (["mail[.*"], "'mail[.*' is neither a transport nor a regular expression: unterminated character set"),
        (["shop_.*"], "The regular expression 'shop_.*' fits no transport to consume: orders, mails."),
        (["fail.*"], "The regular expression 'fail.*' fits no transport to consume: orders, mails."),
        (["order.s"], "There is no transport 'order.s'. Did you mean 'orders'?"),
        ([".*", "--exclude", "ordesr"], "There is no transport 'ordesr'. Did you mean 'orders'?"),
        (["orders", "--exclude", ".*"], "With --exclude there is no transport left to consume."),
        (["--all", "--exclude", "ordesr"], "There is no transport 'ordesr'."),
        (
            ["--all", "--exclude", "orders", "--exclude", "mails"],
            "With --exclude there is no transport left to consume.",
        ),
        (["orders", "--bus", "defualt"], "There is no bus 'defualt'. Did you mean 'default'? Buses: default."),
        (["orders", "--limit", "0"], "0 is not in the range x>=1."),
        (["orders", "--time-limit", "soon"], "'soon' is no duration."),
        (["orders", "--time-limit", "0"], "Limit 'time' must be more than 0, got 0.0."),
        (["orders", "--memory-limit", "big"], "'big' is no size."),
    ],
)
def test_a_mistake_in_the_arguments(shop: Shop, arguments: list[str], problem: str) -> None:
    """A mistake is one sentence and exit code 2, before anything is consumed."""
    shop.dispatch(1)
    result = shop.run("consume", *arguments)

    assert 2 == result.exit_code
    assert problem in result.stderr
    assert "Consuming" not in result.stderr
    assert 1 == shop.json("stats")["transports"]["orders"]["waiting"]


def test_handlers_that_cannot_be_imported(shop: Shop) -> None:
    """A mistake in a module of handlers ends the worker before it touches a message."""
    shop.write('handlers = ["mailing"]\n[transports]\nqueue = "in-memory://"\n', "postbus.toml")
    shop.write("import nowhere_to_be_found\n", "mailing.py")
    result = shop.run("consume", "-t", "0.01", app="")

    assert 2 == result.exit_code
    assert "Importing the handlers failed: ModuleNotFoundError" in result.stderr


def test_a_transport_that_fails_for_good(shop: Shop) -> None:
    """What a new connection cannot mend ends the worker with exit code 1, and a sentence in the format of the log."""
    as_text = shop.run("consume", "orders", "--queues", "high")
    as_json = shop.run("consume", "orders", "--queues", "high", "--log-format", "json")

    assert 1 == as_text.exit_code == as_json.exit_code
    assert "Error: Transport 'orders' has no queues to choose from. Leave out --queues, or consume" in as_text.stderr
    assert "has no queues to choose from" in json.loads(as_json.stderr.splitlines()[-1])["message"]


def test_stop_workers_is_for_those_that_run(shop: Shop) -> None:
    """A worker that is started after ``stop-workers`` is not stopped by it."""
    assert 0 == shop.run("stop-workers").exit_code
    shop.dispatch(1)

    assert "it has handled 1 messages" in shop.run("consume", "orders", "-l", "1").stderr


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it be as in a container, whose user is a mere number."""

    def nobody(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "XDG_STATE_HOME", "POSTBUS_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)


def test_a_user_without_a_home_consumes(shop: Shop, no_home: None) -> None:
    """Only `stop-workers` cannot reach the worker, and says why, and what to do."""
    shop.dispatch(1)
    consumed = shop.run("consume", "orders", "--limit", "1")
    assert 0 == consumed.exit_code, consumed.output

    stopped = shop.run("stop-workers")
    assert 2 == stopped.exit_code
    assert "Set POSTBUS_STATE_DIR to a folder, for the workers too." in stopped.stderr


def test_a_folder_that_cannot_be_written_is_named(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`stop-workers` says which, and what to do."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("POSTBUS_STATE_DIR", str(tmp_path / "file"))
    stopped = shop.run("stop-workers")
    assert 2 == stopped.exit_code
    assert str(tmp_path / "file") in stopped.stderr
    assert "cannot be written: " in stopped.stderr
    assert "Set POSTBUS_STATE_DIR to a folder that can be, for the workers too." in stopped.stderr


def test_an_interruption_of_the_handlers_own_ends_no_worker(shop: Shop) -> None:
    """A handler that raises KeyboardInterrupt has failed; what waits behind it is handled, and the exit code is 0."""
    shop.append("""
        @app.handler
        def interrupt(order: OrderPlaced) -> None:
            if order.order_id == 1:
                raise KeyboardInterrupt
    """)
    shop.dispatch(1, 2, 3)
    result = shop.run("consume", "orders", "--limit", "3")

    assert 0 == result.exit_code
    assert "What a handler raised is no Exception: KeyboardInterrupt" in result.stderr
    assert 0 == shop.json("stats")["transports"]["orders"]["waiting"]


def test_it_says_of_which_transports_messages_would_be_dropped(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """Without a failure transport, what finally fails is gone after a line in the log; who starts a worker is told."""
    shop.run("consume", "orders", "--time-limit", "0.1s")
    assert "is dropped" not in caplog.text
    module = shop.folder / "shop.py"
    module.write_text(module.read_text().replace('    failure_transport="failed",\n', ""))
    shop.run("consume", "orders", "mails", "--time-limit", "0.1s")
    [line] = [record.getMessage() for record in caplog.records if "is dropped" in record.getMessage()]
    assert line.startswith("A message of 'orders' or 'mails' that finally fails is dropped")


@pytest.mark.parametrize(
    ("declared", "what"),
    [("app.on_start(connect)", "shop.connect()"), ("app.provide(Database, connect)", "making Database")],
)
def test_a_worker_that_cannot_begin_says_why(shop: Shop, declared: str, what: str) -> None:
    """What a start hook, or a factory, raises is one sentence with its place, and nothing is handled."""
    shop.append(
        f"""
        class Database: ...


        def connect() -> Database:
            raise OSError("no database")


        {declared}
        if "provide" in "{declared}":
            @app.handler
            def need(mail: MailSent, database: Database) -> None: ...
        """
    )
    shop.dispatch(1)
    result = shop.run("consume", "orders", "--limit", "1")

    line = (shop.folder / "shop.py").read_text().splitlines().index('    raise OSError("no database")') + 1
    assert (
        f"Error: The worker does not start, because {what} failed: OSError: no database (shop.py:{line} in connect).\n"
        == result.stderr
    )
    assert 1 == result.exit_code
    assert 1 == shop.json("stats", "orders")["transports"]["orders"]["waiting"]
