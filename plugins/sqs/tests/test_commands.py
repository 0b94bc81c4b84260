"""What the command line says of a queue on SQS."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.brokers.sqs import ElasticMq

pytestmark = [pytest.mark.slow, pytest.mark.once]

APP = """
import os
from dataclasses import dataclass
from postbus import Postbus
from postbus.errors import Unrecoverable

app = Postbus(transports={{"orders": "{orders}", "failed": "{failed}"}}, failure_transport="failed")


@app.message(transport="orders")
@dataclass(frozen=True)
class OrderPlaced:
    number: int


@app.handler
def handle(order: OrderPlaced) -> None:
    if not os.environ.get("IS_MENDED"):
        raise Unrecoverable("broken")
    print("handled", order.number)
"""


@pytest.fixture
def command(tmp_path, elasticmq: ElasticMq, queue):
    """Return what runs a command of an app with a queue and a failure transport on SQS."""
    orders, failed = (elasticmq.queue_dsn(name, read_timeout=30) for name in (queue, f"{queue}-failed"))
    (tmp_path / "shop.py").write_text(APP.format(orders=orders, failed=failed))

    def run(*arguments: str, mended: bool = False) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "POSTBUS_APP": "shop:app", "PYTHONPATH": str(tmp_path)}
        environment |= {"IS_MENDED": "1"} if mended else {}
        command = [sys.executable, "-m", "postbus", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)

    return run


def test_check_names_a_redrive_policy_that_swallows(command, elasticmq, queue):
    """It is a problem, and the sentence says what to do."""
    client = elasticmq.client()
    url = client.create_queue(QueueName=queue)["QueueUrl"]
    dead = client.create_queue(QueueName=f"{queue}-dead")["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "3"})
    client.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": policy})
    client.close()

    done = command("check", "--format", "json")

    found = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert 1 == done.returncode
    assert "problem" == found["transport orders"]["status"]
    assert "Set maxReceiveCount to 25 or more" in found["transport orders"]["detail"]
    assert "set up at the first use" in found["transport failed"]["detail"]


def test_a_failure_transport_works_as_far_as_it_can(command):
    """What failed is counted and can be consumed; it cannot be shown one by one, and the command says so."""
    command("dispatch", "shop.OrderPlaced", '{"number": 13}')
    command("consume", "orders", "--limit", "1")

    shown = command("failed", "show")
    assert "cannot show or remove single messages. To retry them all: postbus consume failed" in shown.stderr
    counted = json.loads(command("stats", "failed", "--format", "json").stdout)
    assert '"waiting": 1' in json.dumps(counted)
    again = command("consume", "failed", "--limit", "1", mended=True)
    assert "handled 13" in again.stdout
