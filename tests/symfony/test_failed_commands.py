"""The commands of both sides for failed messages, on a table that both use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.symfony.conftest import Shared, Symfony, make_doctrine

pytestmark = [pytest.mark.slow, pytest.mark.once]

SHOP = """
from dataclasses import dataclass

from postbus import Postbus

app = Postbus(
    transports={
        "async": {"dsn": "%(async)s", "serializer": "%(serializer)s", "retry": {"max_retries": 0}},
        "failed": {"dsn": "%(failed)s", "serializer": "%(serializer)s"},
    },
    routing={"*": "async"},
    failure_transport="failed",
)

@app.message("App\\\\Message\\\\SmsNotification")
@dataclass(frozen=True)
class SmsNotification:
    phone_number: str
    text: str = ""

@app.handler
def send(sms: SmsNotification) -> None:
    if sms.text == "fail":
        raise ValueError("it is a bad day")
    print("sent to", sms.phone_number, flush=True)
"""


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    """Give a queue and a failure transport in a table of SQLite."""
    return make_doctrine(tmp_path / "queue.db")


@pytest.fixture
def shop(shared: Shared, tmp_path: Path) -> Path:
    """Give the folder of an application of ours."""
    (tmp_path / "shop.py").write_text(SHOP % {**shared.here, "serializer": "symfony-camel-case"})
    return tmp_path


@pytest.fixture
def snake_shop(shared: Shared, tmp_path: Path) -> Path:
    """Give the folder of one that uses the same names on both sides."""
    (tmp_path / "shop.py").write_text(SHOP % {**shared.here, "serializer": "symfony-snake-case"})
    return tmp_path


def postbus(shop: Path, *arguments: str) -> str:
    """Run a command of ours to the end, and return what it wrote."""
    command = [sys.executable, "-m", "postbus", "--app", "shop:app", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(shop)}
    done = subprocess.run(command, cwd=shop, env=environment, capture_output=True, text=True, timeout=60)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def test_the_worker_of_the_command_line_handles_what_symfony_has_sent(symfony: Symfony, shop: Path) -> None:
    """``postbus consume`` needs nothing but the serializer's name."""
    symfony.dispatch({"class": "SmsNotification", "properties": {"phoneNumber": "1"}})

    assert "sent to 1\n" == postbus(shop, "consume", "async", "--limit", "1")


def test_symfony_shows_and_retries_what_postbus_has_buried(symfony: Symfony, shop: Path) -> None:
    """``messenger:failed:show`` says when and why, ``messenger:failed:retry`` handles it."""
    symfony.dispatch({"class": "SmsNotification", "properties": {"phoneNumber": "1", "text": "fail"}})
    postbus(shop, "consume", "async", "--limit", "1")
    [failed] = json.loads(postbus(shop, "failed", "show", "--format", "json"))
    shown = symfony.run("failed:show", failed["id"])
    *_, handled = symfony.retry_failed(failed["id"])

    assert "builtins.ValueError" in shown
    assert "it is a bad day" in shown
    assert f"Failed at     {failed['failed_at'][:10]}" in shown
    assert "handled" == handled.what
    assert [] == json.loads(postbus(shop, "failed", "show", "--format", "json"))


def test_postbus_shows_and_retries_what_symfony_has_buried(symfony: Symfony, shop: Path) -> None:
    """``postbus failed show`` says when and why, ``postbus failed retry`` handles it."""
    symfony.dispatch({"class": "SmsNotification", "properties": {"phoneNumber": "1"}})
    symfony.consume("async", fail=True)
    [failed] = json.loads(postbus(shop, "failed", "show", "--format", "json"))

    assert "sent to 1" in postbus(shop, "failed", "retry", failed["id"])
    assert "No failed messages were found" in symfony.run("failed:show")


def test_an_application_may_use_our_names(symfony: Symfony, snake_shop: Path) -> None:
    """A converter of names there concerns stamps too, and both sides take what the other has buried."""
    symfony.dispatch({"class": "SmsNotification", "properties": {"phone_number": "1"}}, snake_case=True)
    symfony.consume("async", fail=True, snake_case=True)
    [failed] = json.loads(postbus(snake_shop, "failed", "show", "--format", "json"))

    assert "the gateway is down" in failed["error"]
    assert "sent to 1" in postbus(snake_shop, "failed", "retry", failed["id"])

    symfony.dispatch({"class": "SmsNotification", "properties": {"phone_number": "1", "text": "fail"}}, snake_case=True)
    postbus(snake_shop, "consume", "async", "--limit", "1")
    [failed] = json.loads(postbus(snake_shop, "failed", "show", "--format", "json"))
    received, handled = symfony.retry_failed(failed["id"], snake_case=True)

    assert "handled" == handled.what
    assert ["async"] == [stamp["original_receiver_name"] for stamp in received.stamps("SentToFailureTransportStamp")]
