"""The files of the page about deploying are taken by the programs that they are for, and run a worker."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from configparser import ConfigParser
from contextlib import contextmanager
from pathlib import Path

import click
import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

from postbus.cli import main

DOCS = Path(__file__).parent
BIN = Path(sys.executable).parent


def file_called(name, page="deploying.md"):
    """Return the block that begins with the name of a file, as it would be there; the first, if there are several."""
    text = (DOCS / page).read_text(encoding="utf-8")
    [content, *_] = re.findall(rf"^```\w+\n[#;] {re.escape(name)}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return content


@contextmanager
def started(command, **told):
    """Start a program, and end it if the test fails."""
    with subprocess.Popen(command, **told) as process:
        try:
            yield process
        except BaseException:
            process.terminate()
            raise


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Return the folder of the tutorial's shop, with queues in a file."""
    for name in ("shop.py", "postbus.toml"):
        (tmp_path / name).write_text(file_called(name, "tutorial.md"), encoding="utf-8")
    for name in [name for name in os.environ if name.startswith(("POSTBUS_", "NOTIFY_"))]:
        monkeypatch.delenv(name)
    return tmp_path


def at(shop, content):
    """Return a file with the places of the tests' own in place of those of the page."""
    here = {"/opt/shop/.venv/bin": str(BIN), "/opt/shop": str(shop), "/var/log/supervisor": str(shop)}
    for place, own in {**here, "/var/lib/shop": str(shop / "state")}.items():
        content = content.replace(place, own)
    return re.sub(r"redis://[^\"\s]+/(\w+)", rf"sqlite:///{shop}/shop.db?queue_name=\1", content)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not there.")
def test_systemd_takes_the_unit(shop):
    """It knows every key, and says nothing about any."""
    unit = shop / "shop-worker.service"
    unit.write_text(at(shop, file_called("/etc/systemd/system/shop-worker.service")), encoding="utf-8")

    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_the_unit_says_when_it_is_ready_and_stops(shop):
    """Started as systemd would, with its settings, the worker tells it what it waits for, and ends well."""
    unit = ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read_string(at(shop, file_called("/etc/systemd/system/shop-worker.service")))
    settings = at(shop, file_called("/etc/shop/environment")).split()
    environment = os.environ | dict(line.split("=", 1) for line in settings)
    setup, folder = unit["Service"]["ExecStartPre"].split(), unit["Service"]["WorkingDirectory"]
    subprocess.run(setup, cwd=folder, env=environment, check=True, timeout=60)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(shop / "notify"))
        systemd.settimeout(60)
        with started(
            unit["Service"]["ExecStart"].split(),
            cwd=folder,
            env=environment | {"NOTIFY_SOCKET": str(shop / "notify")},
            stderr=subprocess.DEVNULL,
        ) as worker:
            told = [systemd.recv(100)]
            worker.send_signal(signal.SIGTERM)
            while told[-1] != b"STOPPING=1":
                told.append(systemd.recv(100))

    assert (b"READY=1", 0) == (told[0], worker.returncode)
    assert "notify" == unit["Service"]["Type"]


def test_supervisor_runs_the_workers(shop):
    """It starts both, starts one again that was killed, and stops them in peace."""
    program = at(shop, file_called("/etc/supervisor/conf.d/shop-worker.conf")).replace("user=shop\n", "")
    (shop / "supervisord.conf").write_text(
        f"[supervisord]\nlogfile={shop}/log\npidfile={shop}/pid\nnodaemon=true\n"
        f"[unix_http_server]\nfile={shop}/socket\n[supervisorctl]\nserverurl=unix://{shop}/socket\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n" + program,
        encoding="utf-8",
    )
    configured = ("-c", str(shop / "supervisord.conf"))

    def wait_for(number, what, log):
        deadline = time.monotonic() + 60
        while not log.exists() or log.read_text(encoding="utf-8").count(what) < number:
            assert daemon.poll() is None, daemon.communicate()
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(0.1)

    log, *of_workers = (shop / name for name in ("log", "shop-worker-0.log", "shop-worker-1.log"))
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with started([BIN / "supervisord", *configured], **told) as daemon:
        for one in of_workers:
            wait_for(1, "Consuming", one)
        control = [BIN / "supervisorctl", *configured]
        subprocess.run([*control, "signal", "KILL", "shop-worker:shop-worker-0"], check=True, timeout=60)
        wait_for(2, "Consuming", of_workers[0])
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate(timeout=60)

    said = log.read_text(encoding="utf-8")
    assert 2 == len(re.findall(r"stopped: shop-worker-\d \(exit status 0\)", said)), said


def test_docker_takes_the_files(tmp_path):
    """The linter of Dockerfiles has nothing against the one, and each key of the other is in the specification."""
    (tmp_path / "Dockerfile").write_text(file_called("Dockerfile"), encoding="utf-8")

    done = subprocess.run([BIN / "hadolint", tmp_path / "Dockerfile"], capture_output=True, text=True, timeout=60)

    assert (0, "") == (done.returncode, done.stdout)
    PyCompose.from_yaml(file_called("compose.yaml")).validate()


def test_kubernetes_takes_the_deployment():
    """Every field is in the schema of its API, and of the type that it has there."""
    deployment = yaml.safe_load(file_called("shop-worker.yaml"))

    kubernetes_validate.validate(deployment, "1.34", strict=True)
    pod = deployment["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 25, "A worker takes that long for what it has in hand."


def commands_of(value):
    """Yield each list in a file of YAML that is a command of ours."""
    if isinstance(value, list) and "postbus" in value[:2]:
        yield value[value.index("postbus") + 1 :]
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from commands_of(inner)


def test_what_files_start_is_a_command():
    """With the options that it has, on whichever page; each word of it is a text."""
    pages = "".join(page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md")))
    blocks = re.findall(r"^```yaml\n(.*?)^```", pages, re.DOTALL | re.MULTILINE)
    commands = [command for block in blocks for command in commands_of(yaml.safe_load(block))]
    commands.append(json.loads(file_called("Dockerfile").partition("\nCMD ")[2])[1:])
    for unit in ("/etc/systemd/system/shop-worker.service", "/etc/supervisor/conf.d/shop-worker.conf"):
        started = re.findall(r"^(?:ExecStart|ExecStartPre|command)=\S+/postbus (.*)$", file_called(unit), re.MULTILINE)
        commands += map(shlex.split, started)

    assert len(commands) >= 9, commands
    for words in commands:
        assert all(isinstance(word, str) for word in words), words
        name, command, arguments = main.resolve_command(click.Context(main), words)
        command.make_context(name, arguments)
