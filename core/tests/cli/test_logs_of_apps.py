"""What a worker says in the logs of apps that configure logging while they are imported, in real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SHOP = """
import logging
import logging.config
from dataclasses import dataclass

from postbus import Postbus

{configuration}

app = Postbus(transports={{"orders": "in-memory://"}}, routing={{"*": "orders"}}, retry={{"max_retries": 0}})


@dataclass(frozen=True)
class OrderPlaced:
    order_id: int


@app.handler
def send_receipt(order: OrderPlaced) -> None:
    logging.getLogger("shop").info("Sending a receipt.")
    raise ValueError("no printer")


app.dispatch(OrderPlaced(13))
"""

DICT_CONFIG = """
logging.config.dictConfig({
    "version": 1,
    "formatters": {"theirs": {"format": "THEIRS %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "theirs"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
})
"""
BASIC_CONFIG = 'logging.basicConfig(level=logging.INFO, format="THEIRS %(name)s %(levelname)s %(message)s")'


def consume(folder: Path, configuration: str, *options: str) -> list[str]:
    """Consume one message, whose handler fails, and return the lines of the log."""
    (folder / "shop.py").write_text(SHOP.format(configuration=configuration))
    command = [sys.executable, "-m", "postbus", "--app", "shop:app", "consume", "orders", "--limit", "1", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert (0, "") == (done.returncode, done.stdout), done.stderr
    return done.stderr.splitlines()


def with_text(lines: list[str], text: str) -> list[str]:
    return [line for line in lines if text in line]


def test_a_dict_config_does_not_silence_postbus(tmp_path: Path) -> None:
    """dictConfig() disables the loggers that are there already; what becomes of messages is told all the same."""
    lines = consume(tmp_path, DICT_CONFIG)

    [dropped] = with_text(lines, "Dropping OrderPlaced")
    assert dropped.startswith("THEIRS postbus ")
    assert with_text(lines, "Consuming 'orders'.") == ["THEIRS postbus.cli Consuming 'orders'."]


def test_a_basic_config_has_effect(tmp_path: Path) -> None:
    """basicConfig() of the app is not overridden, without -vv; it formats, once, what Postbus has to say as well."""
    lines = consume(tmp_path, BASIC_CONFIG)

    assert with_text(lines, "Sending a receipt") == ["THEIRS shop INFO Sending a receipt."]
    [dropped] = with_text(lines, "Dropping OrderPlaced")
    assert dropped.startswith("THEIRS postbus CRITICAL ")


def test_verbose_shows_more_than_the_app_does(tmp_path: Path) -> None:
    """-v adds to what the app wants to know of Postbus, and takes nothing away."""
    quiet = BASIC_CONFIG.replace("INFO", "ERROR")

    assert not with_text(consume(tmp_path, quiet), "Retrying")
    assert with_text(consume(tmp_path, quiet, "-v"), "1 failed")
    assert with_text(consume(tmp_path, BASIC_CONFIG, "-v"), "Sending a receipt") == [
        "THEIRS shop INFO Sending a receipt."
    ]


def test_a_level_for_postbus_is_kept(tmp_path: Path) -> None:
    """An app that wants to hear nothing of Postbus says so with a level."""
    lines = consume(tmp_path, 'logging.getLogger("postbus").setLevel(logging.CRITICAL + 1)')

    assert not with_text(lines, "Dropping")
    assert with_text(lines, "Consuming 'orders'.")


def test_a_format_that_is_asked_for_holds(tmp_path: Path) -> None:
    """--log-format json makes JSON of each line of Postbus, once, and leaves the lines of the app as they are."""
    lines = consume(tmp_path, BASIC_CONFIG, "--log-format", "json")

    theirs = [line for line in lines if not line.startswith("{")]
    assert theirs == ["THEIRS shop INFO Sending a receipt."]
    assert [
        line
        for line in map(json.loads, (line for line in lines if line not in theirs))
        if "Dropping" in line["message"]
    ]


def test_an_app_that_configures_nothing(tmp_path: Path) -> None:
    """Warnings of everybody are shown, with a time, and -vv shows what else the app has to say."""
    assert not with_text(consume(tmp_path, ""), "Sending a receipt")
    [line] = with_text(consume(tmp_path, "", "-vv"), "Sending a receipt")
    assert line.endswith("INFO Sending a receipt.")


def test_there_is_no_third_v(tmp_path: Path) -> None:
    """-vvv, which would show no more than -vv, is refused."""
    (tmp_path / "shop.py").write_text(SHOP.format(configuration=""))
    command = [sys.executable, "-m", "postbus", "--app", "shop:app", "consume", "orders", "-vvv"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert 2 == done.returncode
    assert done.stderr.splitlines()[-1] == "Error: Invalid value for '-v' / '--verbose': 3 is not in the range x<=2."
