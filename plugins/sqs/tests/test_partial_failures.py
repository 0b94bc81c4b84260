"""A batch of which the service does a part only: what it is to blame for is asked again, what a message is, is told."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from postbus.errors import ConnectionLost, MessageRefused
from postbus.transport import Outgoing
from tests.brokers.network import reserve_port
from tests.brokers.sqs import ElasticMq

pytestmark = [pytest.mark.slow, pytest.mark.once]

MESSAGES = [Outgoing(b"%d" % number, {}) for number in range(12)]


class Moody(ThreadingHTTPServer):
    """A service that fails at single entries of a batch, as SQS does, and leaves all else to one that does not."""

    def __init__(self, address: str) -> None:
        self.behind = urlsplit(address).netloc
        self.fails: dict[str, int] = {}
        """How often it fails at the entry with this body, or at any (``*``), and is to blame."""
        self.refuses: set[str] = set()
        """Bodies that it does not take."""
        self.asked: Counter[tuple[str, int]] = Counter()
        """How often each operation was asked for, by the number of its entries."""
        super().__init__(("127.0.0.1", reserve_port()), Mouth)

    @property
    def dsn(self) -> str:
        return f"sqs://127.0.0.1:{self.server_port}"

    def failure_of(self, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return how it fails at an entry, if it does."""
        body = entry.get("MessageBody", "*")
        if body in self.refuses:
            return {"Id": entry["Id"], "SenderFault": True, "Code": "InvalidMessageContents", "Message": "no such text"}
        if not self.fails.get(body):
            return None
        self.fails[body] -= 1
        return {"Id": entry["Id"], "SenderFault": False, "Code": "InternalError", "Message": "not now"}


class Mouth(BaseHTTPRequestHandler):
    server: Moody

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "Entries" not in request:
            self._answer(*self._ask_behind(request))
            return
        operation = self.headers["X-Amz-Target"].partition(".")[2]
        self.server.asked[operation, len(request["Entries"])] += 1
        failures = {entry["Id"]: self.server.failure_of(entry) for entry in request["Entries"]}
        request["Entries"] = [entry for entry in request["Entries"] if failures[entry["Id"]] is None]
        status, answer = self._ask_behind(request) if request["Entries"] else (200, {})
        if status == 200:
            answer["Failed"] = [*answer.get("Failed", []), *filter(None, failures.values())]
        self._answer(status, answer)

    def _ask_behind(self, request: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        with closing(HTTPConnection(self.server.behind, timeout=30)) as connection:
            headers = {name: self.headers[name] for name in ("X-Amz-Target", "Content-Type", "Authorization")}
            connection.request("POST", "/", json.dumps(request), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read() or "{}")

    def _answer(self, status: int, answer: Mapping[str, Any]) -> None:
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service(elasticmq: ElasticMq) -> Iterator[Moody]:
    """Return a service that can be told at what it is to fail."""
    with Moody(elasticmq.dsn) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def bodies(elasticmq, connect_to):
    """Return what takes all that is in the queue, and returns its bodies."""

    def take() -> Counter[bytes]:
        connection = connect_to(elasticmq.dsn)
        taken: Counter[bytes] = Counter()
        while deliveries := connection.fetch(100, 0):
            taken += Counter(delivery.body for delivery in deliveries)
            connection.ack([delivery.tag for delivery in deliveries])
        return taken

    return take


def test_what_the_service_fails_to_store_is_sent_again(service, connect_to, bodies):
    """Alone, without those of its batch that are stored: each is there once."""
    service.fails = {"1": 2, "7": 1}

    ids = connect_to(service.dsn).publish(MESSAGES)

    assert 12 == len({*ids} - {None})
    assert Counter(message.body for message in MESSAGES) == bodies()
    assert {("SendMessageBatch", size): 1 for size in (10, 1)} | {("SendMessageBatch", 2): 2} == service.asked


def test_what_the_service_never_stores_is_its_own_fault(service, connect_to, bodies):
    """All others are told as stored; this one is not refused, as another time it will be taken."""
    service.fails = {"1": 100}

    with pytest.raises(ConnectionLost, match="does not store messages at the moment") as caught:
        connect_to(service.dsn).publish(MESSAGES)

    assert {*range(12)} - {1} == caught.value.stored.keys()
    assert Counter(message.body for message in MESSAGES if message.body != b"1") == bodies()


def test_both_may_be_to_blame_in_one_batch(service, connect_to, bodies):
    """The message is refused, once and for all; what the service failed at is stored."""
    service.fails = {"1": 1}
    service.refuses = {"2"}

    with pytest.raises(MessageRefused, match="no such text") as caught:
        connect_to(service.dsn).publish(MESSAGES)

    assert ([2], {*range(12)} - {2}) == (list(caught.value.refused), caught.value.stored.keys())
    assert Counter(message.body for message in MESSAGES if message.body != b"2") == bodies()


def test_what_is_refused_is_told_while_the_service_fails(service, connect_to, bodies):
    """Only what nobody knows of is sent once more by the transport; what is refused would be again."""
    service.fails = {"1": 100}
    service.refuses = {"2"}

    with pytest.raises(ConnectionLost) as caught:
        connect_to(service.dsn).publish(MESSAGES)

    assert {*range(12)} - {1, 2} == caught.value.stored.keys()
    assert b"2" not in bodies()


@pytest.mark.parametrize("verb", ["ack", "release", "keepalive"])
def test_what_the_service_fails_to_settle_is_settled_again(service, connect_to, bodies, verb):
    """It is not lost, and those of its batch that are settled are left alone."""
    connection = connect_to(service.dsn)
    connection.publish(MESSAGES[:10])
    deliveries = []
    while len(deliveries) < 10:
        deliveries += connection.fetch(10, 10)
    tags = [delivery.tag for delivery in deliveries]
    service.fails = {"*": 3}

    assert [] == getattr(connection, verb)(tags)

    operation = "DeleteMessageBatch" if verb == "ack" else "ChangeMessageVisibilityBatch"
    assert {(operation, 10): 1, (operation, 3): 1, ("SendMessageBatch", 10): 1} == service.asked
    assert (10 if verb == "release" else 0) == bodies().total()


def test_what_the_service_never_settles_is_no_lost_delivery(service, connect_to):
    """Nobody else has it: the connection is to blame, and it comes again."""
    connection = connect_to(service.dsn)
    connection.publish(MESSAGES[:1])
    [delivery] = connection.fetch(1, 10)
    service.fails = {"*": 100}

    with pytest.raises(ConnectionLost, match="does not settle messages at the moment"):
        connection.ack([delivery.tag])
