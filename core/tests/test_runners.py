"""The messages that every app can use, and what handles them."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest

from postbus import ConfigurationError, Envelope, HandlerFailed, Postbus, Unrecoverable, stamps
from postbus.errors import PingFailed, RunFailed
from postbus.messages import Answer, Completed, PingWebhook, Redispatch, RunCommand, RunProcess
from postbus.runners import CommandRunner, ProcessRunner, Redispatcher, WebhookPinger


@dataclass(frozen=True)
class Order:
    number: int


@pytest.fixture
def app(make_app: Callable[..., Postbus]) -> Postbus:
    return make_app(transports={"work": "in-memory://"}, routing={Order: "orders"})


def messages(app: Postbus, transport: str) -> list[object]:
    sent: list[Envelope] = app.transport(transport).sent  # type: ignore[attr-defined]
    return [envelope.message for envelope in sent]


# --- redispatch ------------------------------------------------------------------------------------


def test_a_message_is_redispatched_where_it_says(app: Postbus) -> None:
    """Or where the routing says, if it names nothing."""
    app.handler(Redispatcher(app))
    app.dispatch(Redispatch(Order(1), "work"))
    app.dispatch(Redispatch(Order(2), ["work"]))
    app.dispatch(Redispatch(Order(3)))
    assert ([Order(1), Order(2)], [Order(3)]) == (messages(app, "work"), messages(app, "orders"))


def test_a_redispatch_travels_with_the_message_inside(app: Postbus, run: Any) -> None:
    """It is read as what it is, by its own name."""
    app.handler(Redispatcher(app))
    app.dispatch(Redispatch(Order(1), "work"), stamps.TransportNames(["orders"]))
    run(app)
    assert ([Redispatch(Order(1), ("work",))], [Order(1)]) == (messages(app, "orders"), messages(app, "work"))


def test_a_redispatch_of_an_unknown_type_is_not_read() -> None:
    """Nothing on the wire chooses what is made of it."""
    other = Postbus(config={})
    codec = Postbus(config={}).types.codec_for(Redispatch)
    body = codec.encode(Redispatch(Order(1)))
    with pytest.raises(ValueError, match=r"\$.message: no message is registered as '.*Order'"):
        other.types.codec_for(Redispatch).decode(body)


def test_nothing_is_redispatched_into_a_failure_transport(app: Postbus) -> None:
    """Who can write into a queue could write what is believed there."""
    with pytest.raises(Unrecoverable, match="'failed' keeps what has failed"):
        Redispatcher(app)(Redispatch(Order(1), "failed"))


def test_an_envelope_is_not_redispatched() -> None:
    """Its stamps would be lost on the way."""
    with pytest.raises(ConfigurationError, match="Give it envelope.message"):
        Redispatch(Envelope(Order(1)))


# --- commands --------------------------------------------------------------------------------------


@click.group()
def shop() -> None:
    pass


@shop.command()
@click.argument("name")
@click.option("--times", default=1)
def greet(name: str, times: int) -> None:
    click.echo(f"Hello {name}. " * times)
    click.echo("quietly", err=True)
    click.echo(b"bytes")


def classic(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("classic")
    parser.add_argument("code", type=int)
    code: int = parser.parse_args(arguments).code
    print("classic")
    return code


def test_a_line_of_a_click_command_is_run(app: Postbus) -> None:
    """Its exit code and output are the result."""
    app.handler(CommandRunner(shop))
    assert Completed(0, "Hello Ada B. Hello Ada B. \nbytes\n", "quietly\n") == app.query(
        RunCommand("greet 'Ada B' --times 2")
    )
    assert sys.stdout.__class__.__module__ != "postbus.runners"


def test_a_line_that_the_program_refuses_has_failed() -> None:
    """With what it says about that."""
    with pytest.raises(RunFailed, match="A command ended with exit code 2: Error: No such command 'gret'") as failed:
        CommandRunner(shop)(RunCommand("gret"))
    assert (2, "") == (failed.value.exit_code, failed.value.output)
    assert "Usage:" in failed.value.error_output
    assert 2 == CommandRunner(shop)(RunCommand("gret", check=False)).exit_code


def test_a_function_of_arguments_is_a_program() -> None:
    """What it returns, or exits with, is its exit code; also that of argparse."""
    runner = CommandRunner(classic)
    assert Completed(0, "classic\n", "") == runner(RunCommand("0"))
    assert 3 == runner(RunCommand("3", check=False)).exit_code
    assert 2 == runner(RunCommand("x", check=False)).exit_code
    assert Completed(1, "", "no luck\n") == CommandRunner(lambda arguments: sys.exit("no luck"))(
        RunCommand("", check=False)
    )


def test_a_program_that_raises_has_failed_with_what_it_wrote() -> None:
    """Whatever ``check`` says; the cause is what it raised."""

    def program(arguments: list[str]) -> None:
        print("so far")
        raise LookupError("nothing there")

    with pytest.raises(RunFailed, match="A command raised LookupError: nothing there: so far") as failed:
        CommandRunner(program)(RunCommand("", check=False))
    assert (1, "so far\n") == (failed.value.exit_code, failed.value.output)
    assert isinstance(failed.value.__cause__, LookupError)


def test_commands_beside_each_other_write_each_into_its_own_result(capsys: pytest.CaptureFixture[str]) -> None:
    """And what others print meanwhile goes where it always does."""
    inside, done = threading.Barrier(3), threading.Barrier(3)

    def program(arguments: list[str]) -> None:
        inside.wait(10)
        print(*arguments)
        done.wait(10)

    results: dict[str, Completed] = {}

    def run(name: str) -> None:
        results[name] = CommandRunner(program)(RunCommand(name))

    threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    inside.wait(10)
    print("outside")
    done.wait(10)
    for thread in threads:
        thread.join(10)
    assert {"one": "one\n", "two": "two\n"} == {name: result.output for name, result in results.items()}
    assert "outside\n" == capsys.readouterr().out


def test_of_much_output_the_end_is_kept() -> None:
    """However much it is."""

    def program(arguments: list[str]) -> None:
        for number in range(1000):
            print(f"{number:09}")

    assert "000000998\n000000999\n" == CommandRunner(program, most_output=20)(RunCommand("")).output


def test_a_line_that_cannot_be_split_is_hopeless() -> None:
    """It will never be another one."""
    with pytest.raises(Unrecoverable, match="cannot be split: No closing quotation"):
        CommandRunner(shop)(RunCommand("greet 'Ada"))


# --- processes -------------------------------------------------------------------------------------

PYTHON = sys.executable
RUNNER = ProcessRunner([PYTHON], environment=["SHOP"])


def python(code: str, *arguments: str, **options: Any) -> RunProcess:
    return RunProcess([PYTHON, "-c", code, *arguments], **options)


def test_a_process_is_run(app: Postbus, tmp_path: Path) -> None:
    """With its arguments as they are, its input, its folder, and more in its environment."""
    app.handler(RUNNER)
    code = "import os, sys; print(sys.argv[1], sys.stdin.read(), os.getcwd(), os.environ['SHOP'], 'PATH' in os.environ)"
    process = python(code, "a; b $HOME", input="in", folder=str(tmp_path), environment={"SHOP": "open"})
    assert Completed(0, f"a; b $HOME in {tmp_path} open True\n", "") == app.query(process)


def test_a_process_travels(app: Postbus, run: Any) -> None:
    """It can be routed like any message."""
    app.handler(RUNNER)
    app.dispatch(python("print(1)"), stamps.TransportNames(["work"]))
    run(app, "work")
    assert [python("print(1)")] == [envelope.message for envelope in app.transport("work").acknowledged]  # type: ignore[attr-defined]


def test_a_process_that_fails_has_failed_with_what_it_wrote() -> None:
    """Unless it was told that this is no failure."""
    code = "import sys; print('so far'); sys.exit('no luck')"
    with pytest.raises(RunFailed, match="ended with exit code 1: no luck") as failed:
        RUNNER(python(code))
    assert (1, "so far\n", "no luck\n") == (failed.value.exit_code, failed.value.output, failed.value.error_output)
    assert Completed(1, "so far\n", "no luck\n") == RUNNER(python(code, check=False))
    with pytest.raises(RunFailed, match="was ended by signal 9."):
        RUNNER(python("import os; os.kill(os.getpid(), 9)"))


def test_a_program_that_is_not_there_has_failed() -> None:
    """As has one whose folder is missing."""
    with pytest.raises(RunFailed, match="no-such-program could not be started: FileNotFoundError") as failed:
        ProcessRunner("no-such-program")(RunProcess(["no-such-program"]))
    assert failed.value.exit_code is None
    with pytest.raises(RunFailed, match="could not be started"):
        RUNNER(python("", folder="/no/such/folder"))


def test_only_programs_that_are_named_are_run() -> None:
    """For who can write into the queue writes what is run."""
    with pytest.raises(Unrecoverable, match="'rm' is no program that may be run here"):
        RUNNER(RunProcess(["rm", "-rf", "/"]))
    with pytest.raises(Unrecoverable, match="'LD_PRELOAD' may not be set for programs here"):
        RUNNER(python("print(1)", environment={"SHOP": "open", "LD_PRELOAD": "/tmp/theirs.so"}))
    assert "1\n" == ProcessRunner("*")(python("print(1)")).output


def test_a_shell_is_asked_for_on_both_sides() -> None:
    """By the message, and by who handles it."""
    line = RunProcess("echo one | tr o 0; exit 3", shell=True, check=False)
    assert Completed(3, "0ne\n", "") == ProcessRunner([], shell=True)(line)
    with pytest.raises(Unrecoverable, match="A line for the shell was to be run"):
        ProcessRunner("*")(line)


@pytest.mark.parametrize("wrong", [{"command": "ls -l"}, {"command": ["ls"], "shell": True}, {"command": []}])
def test_a_line_and_a_list_are_not_mistaken_for_each_other(wrong: dict[str, Any]) -> None:
    """A list would lose its arguments in a shell, a line would be one long name."""
    with pytest.raises(ConfigurationError, match="RunProcess"):
        RunProcess(**wrong)


def test_a_process_that_takes_too_long_is_killed_with_what_it_started(tmp_path: Path) -> None:
    """It has failed, with what it wrote until then."""
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)"
    )
    with pytest.raises(RunFailed, match="did not end within 2 s, and was killed: ") as failed:
        RUNNER(python(code, timeout=2))
    child = int(failed.value.output)
    until = time.monotonic() + 20
    while time.monotonic() < until and _runs(child):
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def test_what_a_process_leaves_behind_is_not_waited_for() -> None:
    """It may go on, with the output in its hands."""
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)"
    )
    child = int(RUNNER(python(code, timeout=60)).output)
    assert _runs(child)
    os.kill(child, 9)


def test_the_output_of_a_process_is_bounded() -> None:
    """And one that is bounded does not stop it; neither does input that it does not read."""
    completed = ProcessRunner("*", most_output=10)(
        python(
            "import sys; sys.stdout.write('x' * 3_000_000 + 'the end'); sys.stderr.write('y' * 3_000_000)",
            input="z" * 3_000_000,
        )
    )
    assert ("xxxthe end", "y" * 10) == (completed.output, completed.error_output)


def test_a_process_does_not_outlive_who_runs_it(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A worker that is stopped in the middle of it takes it along."""
    # A shell lets its background jobs ignore Ctrl-C, and with them what they start, as these tests.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    code = "import os, sys, time; print(os.getpid(), file=open(sys.argv[1], 'w'), flush=True); time.sleep(600)"
    runs = tmp_path / "pid"

    def interrupt() -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until and not (runs.exists() and runs.read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        RUNNER(python(code, str(runs), timeout=60))
    assert not _runs(int(runs.read_text()))


# --- webhooks --------------------------------------------------------------------------------------


class Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        said = f"{self.headers.get('X-Shop')} {self.rfile.read(length).decode()}".encode()
        self.send_response(int(self.path.strip("/").partition("?")[0]))
        self.send_header("X-Answer", "yes")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_webhook_is_called(app: Postbus, url: str) -> None:
    """With what is to be said, as text or as JSON."""
    app.handler(WebhookPinger())
    answer: Answer = app.query(PingWebhook(f"{url}/200", "POST", {"X-Shop": "open"}, text="hello"))
    assert (200, "yes", "open hello") == (answer.status, answer.headers["x-answer"], answer.text)
    assert 'None {"a":1}' == app.query(PingWebhook(f"{url}/201", "POST", json={"a": 1})).text


@pytest.mark.parametrize("status", [301, 404, 503])
def test_an_answer_that_is_no_success_is_a_failure(app: Postbus, url: str, status: int) -> None:
    """Unless it was told that this is none."""
    app.handler(WebhookPinger())
    with pytest.raises(HandlerFailed) as failed:
        app.dispatch(PingWebhook(f"{url}/{status}?token=secret"))
    [error] = failed.value.errors.values()
    assert isinstance(error, PingFailed)
    assert (status, f"127.0.0.1 answered {status}.") == (error.status, str(error))
    assert status == app.query(PingWebhook(f"{url}/{status}", check=False)).status


def test_no_answer_is_a_failure() -> None:
    """One that may be tried again; a URL that is none may not."""
    with pytest.raises(PingFailed, match="127.0.0.1 gave no answer: ConnectError"):
        WebhookPinger()(PingWebhook("http://127.0.0.1:9/"))
    for wrong in "ftp://127.0.0.1/", "nothing":
        with pytest.raises(Unrecoverable, match="no URL of http or https"):
            WebhookPinger()(PingWebhook(wrong))


def test_of_a_long_answer_the_beginning_is_kept(url: str) -> None:
    """Whatever is at the other end."""
    assert "None 12345" == WebhookPinger(most_output=10)(PingWebhook(f"{url}/200", "POST", text="1234567")).text


def test_webhooks_without_httpx_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the handler is added, and not when a message comes."""
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ConfigurationError, match=r"pip install \"postbus\[webhooks\]\""):
        WebhookPinger()
