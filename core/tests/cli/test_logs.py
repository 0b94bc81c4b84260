"""Logs as lines for people, and as JSON."""

from __future__ import annotations

import json
import logging

import pytest

from postbus.cli import logs


def test_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Each record is one object with time, level, logger, message, and all of ``extra``."""
    logs.configure(1, "json")
    logging.getLogger("postbus").info("Handled %s.", "it", extra={"message_id": "7", "tags": {1}})

    [line] = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert ("INFO", "postbus", "Handled it.", "7", "{1}") == (
        record["level"],
        record["logger"],
        record["message"],
        record["message_id"],
        record["tags"],
    )
    assert record["time"].endswith("+00:00")


def test_a_traceback_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception does not break the line: it is the field ``error``."""
    logs.configure(0, "json")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("postbus").exception("Oh.")

    [line] = capsys.readouterr().err.splitlines()
    assert "ValueError: two\nlines" in json.loads(line)["error"]


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        (0, ["ours warning", "theirs warning"]),
        (1, ["ours warning", "ours info", "theirs warning"]),
        (2, ["ours warning", "ours info", "ours debug", "theirs warning", "theirs info"]),
    ],
)
def test_verbosity(capsys: pytest.CaptureFixture[str], verbosity: int, shown: list[str]) -> None:
    """Each -v shows more: first of Postbus, then of everybody."""
    logs.configure(verbosity)
    for whose, name in (("ours", "postbus"), ("theirs", "shop")):
        for level in ("warning", "info", "debug"):
            getattr(logging.getLogger(name), level)(f"{whose} {level}")

    assert shown == [line.split(maxsplit=3)[3] for line in capsys.readouterr().err.splitlines()]


def test_configuring_again_replaces(capsys: pytest.CaptureFixture[str]) -> None:
    """A second configuration does not print every line twice."""
    logs.configure()
    logs.configure()
    logging.getLogger("postbus").warning("once")

    assert 1 == capsys.readouterr().err.count("once")
