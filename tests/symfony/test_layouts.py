"""How Symfony lays out a message on each broker, byte for byte: it is read from there, and written there alike."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import pytest

from postbus import Postbus, stamps
from tests.brokers.beanstalkd import Beanstalkd
from tests.brokers.rabbitmq import RabbitMQ
from tests.brokers.redis import RedisPlain

LAYOUTS = json.loads(Path(__file__).with_name("layouts.json").read_text(encoding="utf-8"))
STAMP = "X-Message-Stamp-Symfony\\Component\\Messenger\\Stamp\\"
BODY = b'{"text":"H\\u00e9\\/x","n":7}'


@dataclass(frozen=True)
class Hello:
    text: str
    n: int


HELLO = Hello("Hé/x", 7)


@pytest.fixture
def name() -> str:
    """Give a name that no other test uses."""
    return f"layout-{uuid.uuid4().hex}"


def make_app(dsn: str) -> Postbus:
    app = Postbus(transports={"shared": {"dsn": dsn, "serializer": "symfony"}}, routing={"*": "shared"})
    app.message("App\\Message\\Hello")(Hello)
    return app


def received(app: Postbus) -> Any:
    transport: Any = app.transport("shared")
    [envelope] = transport.receive(1, 10)
    transport.ack([envelope])
    return envelope


def test_a_row_of_doctrines(tmp_path: Path) -> None:
    """Columns ``body`` and ``headers``, as text."""
    row = LAYOUTS["doctrine_row"]
    with (
        closing(make_app(f"sqlite:///{tmp_path}/queue.db")) as app,
        closing(sqlite3.connect(tmp_path / "queue.db")) as db,
    ):
        app.dispatch(HELLO)
        [(body, headers)] = db.execute("SELECT body, headers FROM messenger_messages").fetchall()
        assert HELLO == received(app).message
        insert = "INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at) VALUES "
        moment = "2026-11-24 12:00:00"
        db.execute(f"{insert} (?, ?, 'default', ?, ?)", (row["body"], row["headers"], moment, moment))
        db.commit()
        envelope = received(app)

        assert json.loads(row["body"]) == json.loads(body)
        assert json.loads(row["headers"])["type"] == json.loads(headers)["type"]
        assert HELLO == envelope.message
        app.transport("shared").send([envelope.without(stamps.Received)])
        [(body, headers)] = db.execute("SELECT body, headers FROM messenger_messages").fetchall()
        assert row["body"] == body
        assert json.loads(row["headers"]).items() <= json.loads(headers).items()


def test_a_job_in_a_tube(beanstalkd: Beanstalkd, name: str) -> None:
    """JSON with the body and the headers; what we put beside these, nobody there looks at."""
    job = json.loads(LAYOUTS["beanstalkd_job"])
    with closing(make_app(f"{beanstalkd.dsn}?tube_name={name}")) as app, beanstalkd.client() as client:
        client.use(name)
        client.put(LAYOUTS["beanstalkd_job"].encode(), priority=1024, ttr=90)
        envelope = received(app)
        assert HELLO == envelope.message

        app.transport("shared").send([envelope.without(stamps.Received)])

        written = json.loads(client.peek_ready().body)
        assert job["body"] == written["body"]
        assert job["headers"].items() <= written["headers"].items()
        assert HELLO == received(app).message


@pytest.mark.parametrize("layout", ["redis_entry", "redis_entry_as_php_string"])
def test_an_entry_of_a_stream(redis_plain: RedisPlain, name: str, layout: str) -> None:
    """One field, ``message``, with JSON in it; also in the string that phpredis makes of it."""
    client = redis_plain.client()
    with closing(make_app(f"{redis_plain.dsn}/{name}/symfony")) as app:
        app.dispatch(HELLO)
        [(_, fields)] = client.xrange(name)
        assert HELLO == received(app).message
        client.xadd(name, {"message": LAYOUTS[layout]})
        envelope = received(app)

        assert ["message"] == list(fields)
        assert {"body", "headers"} == json.loads(fields["message"]).keys()
        assert (HELLO, BODY) == (envelope.message, envelope.last(stamps.Encoded).body)


def test_a_delayed_member_of_a_set(redis_plain: RedisPlain, name: str) -> None:
    """The same JSON with a ``uniqid``, in a sorted set beside the stream, by when it is due in milliseconds."""
    client = redis_plain.client()
    with closing(make_app(f"{redis_plain.dsn}/{name}/symfony")) as app:
        app.dispatch(HELLO, stamps.Delay(3600))
        [member] = client.zrange(f"{name}__queue", 0, -1)
        client.zadd(f"{name}__queue", {LAYOUTS["redis_member"]: 1_000})
        envelope = received(app)

        assert {"body", "headers", "uniqid"} == json.loads(member).keys()
        assert [{"delay": 3_600_000}] == json.loads(json.loads(member)["headers"][STAMP + "DelayStamp"])
        assert (HELLO, stamps.Delay(5)) == (envelope.message, envelope.last(stamps.Delay))


@pytest.fixture
def channel(rabbitmq: RabbitMQ) -> Iterator[Any]:
    """Give a channel of a client of its own."""
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq.dsn))
    yield connection.channel()
    connection.close()


def test_the_properties_of_amqp(rabbitmq: RabbitMQ, channel: Any, name: str) -> None:
    """Headers are headers, among them one called ``type``; the content type is the property."""
    row = LAYOUTS["doctrine_row"]
    headers = json.loads(row["headers"])
    with closing(make_app(f"{rabbitmq.dsn}/{name}")) as app:
        app.dispatch(HELLO)
        _, properties, body = channel.basic_get(name, auto_ack=True)
        ours = pika.BasicProperties(content_type=headers.pop("Content-Type"), headers=headers, delivery_mode=2)
        channel.basic_publish(name, "", row["body"].encode(), ours)
        envelope = received(app)

        assert json.loads(row["body"]) == json.loads(body)
        assert "App\\Message\\Hello" == properties.headers["type"]
        assert ("application/json", 2) == (properties.content_type, properties.delivery_mode)
        assert "Content-Type" not in properties.headers
        assert all(isinstance(value, str) for value in properties.headers.values())
        assert (HELLO, BODY) == (envelope.message, envelope.last(stamps.Encoded).body)
