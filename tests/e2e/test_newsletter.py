"""The newsletter example: it loses nothing, and it would notice if it did."""

from __future__ import annotations

import json
import os
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from subprocess import PIPE
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest

from postbus import Recoverable, Unrecoverable

EXAMPLE = Path(__file__).parents[2] / "examples" / "newsletter"


@pytest.fixture
def tally(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import newsletter.tally

    return newsletter.tally


@pytest.fixture
def maildir(tmp_path: Path) -> Path:
    (tmp_path / "new").mkdir()
    return tmp_path


class MailServer:
    """The mail server of the example, in a process of its own, as often as it is started."""

    def __init__(self, maildir: Path) -> None:
        self._maildir = maildir
        self._process: subprocess.Popen[str] | None = None
        self.address = "127.0.0.1:0"

    def start(self) -> None:
        arguments = ["--port", self.address.split(":")[1], "--maildir", self._maildir]
        self._process = subprocess.Popen(
            [sys.executable, EXAMPLE / "mail_server.py", *arguments], stdout=PIPE, text=True
        )
        self.address = self._process.stdout.readline().split()[2].rstrip(",")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.communicate(timeout=10)
            self._process = None


@pytest.fixture
def mail_server(tmp_path: Path) -> Iterator[MailServer]:
    server = MailServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def mailer(mail_server: MailServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    from newsletter.mailer import Mailer

    mailer = Mailer(mail_server.address)
    yield mailer
    mailer.close()


def run_demo(tmp_path: Path, **settings: str) -> None:
    """Run the demo with some of its recipients; see that it lost nothing, and left nothing lying about."""
    recipients = tmp_path / "recipients.csv"
    everybody = (EXAMPLE / "recipients.csv").read_text(encoding="utf-8").splitlines()
    special = [line for line in everybody if line.endswith(("@gone.invalid", "@greylisted.test"))]
    others = [line for line in everybody if line not in special][: 1 + 600 - len(special)]
    recipients.write_text("\n".join(others[:300] + special + others[300:]), encoding="utf-8")

    folder = tmp_path / "tmp"
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NEWSLETTER", "POSTBUS"))}
    demo = subprocess.run(
        [sys.executable, EXAMPLE / "demo.py", "--recipients", recipients, "--json"],
        env=environment | {"TMPDIR": str(folder)} | settings,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert 0 == demo.returncode, demo.stderr
    result = json.loads(demo.stdout)
    assert 0 == result["lost"]
    assert 0 == result["left"]
    assert [] == result["problems"]
    assert 600 == result["dispatched"]
    assert 7 == result["buried"]
    assert 593 == result["delivered"]
    assert [] == list(folder.iterdir())


@pytest.mark.slow
def test_the_demo_ends_with_nothing_lost(tmp_path):
    """Every message is delivered or buried though a worker is killed."""
    run_demo(tmp_path)


@pytest.mark.slow
@pytest.mark.once
def test_one_variable_moves_it_to_redis(tmp_path, redis_plain):
    """The same program, and the same workers, send through Redis."""
    run_demo(tmp_path, NEWSLETTER_DSN=f"{redis_plain.dsn}/{uuid4()}?redeliver_timeout=5&claim_interval=500")


@pytest.mark.slow
@pytest.mark.once
def test_one_variable_moves_it_to_rabbitmq(tmp_path, rabbitmq):
    """The same program, and the same workers, send through RabbitMQ."""
    run_demo(tmp_path, NEWSLETTER_DSN=f"{rabbitmq.dsn}/{uuid4()}")


@pytest.mark.slow
@pytest.mark.once
def test_one_variable_moves_it_to_beanstalkd(tmp_path, beanstalkd):
    """The same program, and the same workers, send through beanstalkd."""
    run_demo(tmp_path, NEWSLETTER_DSN=f"{beanstalkd.dsn}?tube_name={uuid4()}&ttr=5")


@pytest.mark.slow
@pytest.mark.once
def test_one_variable_moves_it_to_kafka(tmp_path, kafka_plain):
    """The same program, and the same workers, send through Kafka."""
    run_demo(tmp_path, NEWSLETTER_DSN=f"{kafka_plain.dsn}/{uuid4()}?session_timeout=3&delays[]=1&partitions=2")


@pytest.mark.slow
@pytest.mark.once
def test_what_is_buried_is_counted_where_nobody_can_browse(tmp_path, rabbitmq):
    """With the failure transport on RabbitMQ too, who was not reached is read all the same, and stays there."""
    run_demo(tmp_path, NEWSLETTER_DSN=f"{rabbitmq.dsn}/{uuid4()}", NEWSLETTER_FAILED_DSN=f"{rabbitmq.dsn}/{uuid4()}")


def test_a_message_without_a_mail_is_lost(tally, maildir):
    """Whoever got no mail, and whose message was not buried, is counted as lost and named."""
    put_mail(maildir, "ada@example.org", "1")
    put_mail(maildir, "bela@example.org", "2")

    counted = tally.tally(
        ["ada@example.org", "bela@example.org", "chidi@example.org", "dana@gone.invalid"],
        tally.Maildir(maildir).mails(),
        buried=["dana@gone.invalid"],
        left=0,
    )

    assert (4, 2, 1, 1) == (counted.dispatched, counted.delivered, counted.buried, counted.lost)
    assert "chidi@example.org" in counted.problems[0]


def test_what_waits_on_the_broker_is_not_lost_but_not_done_either(tally, maildir):
    """A message that is still on the broker is no loss; the newsletter has not ended well all the same."""
    counted = tally.tally(["ada@example.org"], tally.Maildir(maildir).mails(), buried=[], left=1)

    assert 0 == counted.lost
    assert ("1 messages are still on the broker.",) == counted.problems


def test_a_second_mail_of_a_message_is_a_duplicate(tally, maildir):
    """Two mails with one Message-ID are one delivery, and no problem: at least once is what is promised."""
    put_mail(maildir, "ada@example.org", "1")
    put_mail(maildir, "ada@example.org", "1", attempt=2)

    counted = tally.tally(["ada@example.org"], tally.Maildir(maildir).mails(), buried=[], left=0)

    assert (1, 1, 1) == (counted.delivered, counted.duplicates, counted.retried)
    assert () == counted.problems


@pytest.mark.parametrize(
    ("mails", "buried"),
    [
        ([("ada@example.org", "1"), ("ada@example.org", "2")], []),
        ([("ada@example.org", "1")], ["ada@example.org"]),
        ([("ada@example.org", "1"), ("eve@example.org", "2")], []),
    ],
    ids=["two different mails", "delivered and buried", "a stranger"],
)
def test_what_is_too_much_is_a_problem(tally, maildir, mails, buried):
    """More than each message's one end is wrong as well, though nothing is lost."""
    for address, message_id in mails:
        put_mail(maildir, address, message_id)

    counted = tally.tally(["ada@example.org"], tally.Maildir(maildir).mails(), buried, left=0)

    assert 0 == counted.lost
    assert counted.problems


@pytest.mark.slow
def test_the_mailer_tells_failures_apart(mailer, mail_server):
    """A refusal for good is buried, one for now is retried, and a server that is away is waited for."""
    with pytest.raises(Unrecoverable, match="550"):
        mailer.deliver(mail_to("ada@gone.invalid"))
    with pytest.raises(Unrecoverable, match="SMTPUTF8"):
        mailer.deliver(mail_to("zoë@example.org"))
    with pytest.raises(smtplib.SMTPRecipientsRefused, match="451"):
        mailer.deliver(mail_to("ada@greylisted.test"))
    mailer.deliver(mail_to("ada@example.org"))

    mail_server.stop()
    with pytest.raises(Recoverable):
        mailer.deliver(mail_to("ada@example.org"))


@pytest.mark.slow
def test_the_mailer_connects_again(mailer, mail_server, tmp_path):
    """A connection that the server has closed in the meantime is replaced before the next mail."""
    mailer.FRESH = 0.0
    mailer.deliver(mail_to("ada@example.org"))
    mail_server.stop()
    mail_server.start()
    mailer.deliver(mail_to("bela@example.org"))

    assert 2 == len(list((tmp_path / "new").iterdir()))


@pytest.mark.slow
def test_the_recipients_are_made_the_same_each_time():
    """The file in the repository is what its program makes."""
    made = subprocess.run([sys.executable, EXAMPLE / "make_recipients.py"], capture_output=True, check=True, timeout=60)

    assert (EXAMPLE / "recipients.csv").read_bytes() == made.stdout


def put_mail(maildir: Path, recipient: str, message_id: str, attempt: int = 1) -> None:
    name = str(len(list((maildir / "new").iterdir())))
    headers = f"Delivered-To: {recipient}\r\nMessage-ID: <{message_id}>\r\nX-Attempt: {attempt}\r\n"
    (maildir / "new" / name).write_text(f"{headers}\r\nDear reader\r\n", newline="")


def mail_to(address: str) -> EmailMessage:
    mail = EmailMessage()
    mail["From"] = "courier@example.org"
    mail["To"] = address
    mail.set_content("Dear reader")
    return mail
