"""How the public names are used, and what the type checkers make of it. Never run, only checked.

`assert_type` says which type a value has; the comment behind a `reveal_type` which signature a function.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type, reveal_type
from uuid import UUID

from postbus import (
    Backoff,
    ConfigurationError,
    Envelope,
    HandlerFailed,
    Handlers,
    Limits,
    Postbus,
    Recoverable,
    Stamp,
    TransportError,
    handles,
    hookimpl,
    stamps,
)
from postbus.bus import MessageBus, Middleware, Next
from postbus.config import TransportConfig
from postbus.deduplication import Deduplicate, MemoryStore
from postbus.dsn import Dsn, Options, option
from postbus.events import Event, WorkerStopped
from postbus.hookspecs import RegisterTransport
from postbus.messages import Completed, Redispatch, RunProcess
from postbus.queue_transport import QueueTransport
from postbus.runners import ProcessRunner, Redispatcher
from postbus.sealing import signed
from postbus.testing import AppTest, DeliverTwice
from postbus.transport import Connection, Guarantees, Transport, TransportContext
from postbus.validation import Validate


@dataclass(frozen=True)
class OrderPlaced:
    order_id: int


class Tenant(Stamp):
    wire_name = "tenant"
    name: str


def log(envelope: Envelope, call_next: Next) -> Envelope:
    return call_next(envelope.with_(Tenant("acme")))


# An envelope, and what is on it.
envelope = Envelope.wrap(OrderPlaced(13), Tenant("acme"), stamps.Delay(1.5))
assert_type(envelope, Envelope)
assert_type(envelope.with_(Tenant("other")), Envelope)
assert_type(envelope.last(Tenant), Tenant | None)
assert_type(envelope.all(stamps.Sent), list[stamps.Sent])
assert_type(envelope.has(Tenant), bool)
assert_type(Tenant("acme").name, str)
assert_type(stamps.Delay(timedelta(minutes=5)).seconds, float)
assert_type(Recoverable(delay=timedelta(minutes=5)).delay, float | None)
stamps.Delay("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
assert_type(stamps.Key("acme").value, str | None)
assert_type([stamps.Key(13), stamps.Key(UUID(int=13)), stamps.Key(None)], list[stamps.Key])
stamps.Key(1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Tenant(name=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Tenant("acme").name = "changed"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
reveal_type(Envelope.wrap)  # (message: Any, *stamps: Stamp) -> Envelope

# An app.
app = Postbus(
    transports={"orders": "sqlite:///shop.db", "failed": {"dsn": "in-memory://", "options": {"lease": 3}}},
    routing={OrderPlaced: "orders", "shop.*": ["orders", "failed"], "*": "orders"},
    buses={"default": {"middleware": [log, "shop.middleware:audit"]}},
    failure_transport="failed",
    retry=Backoff(max_retries=5, delay=0.5, immediate=1, errors={ValueError: "never", OSError: Backoff(delay=9)}),
)
assert_type(app.dispatch(OrderPlaced(13), stamps.Delay(5)), Envelope)
assert_type(app.dispatch_many([OrderPlaced(1), OrderPlaced(2)]), list[Envelope])
assert_type(app.query(OrderPlaced(13)), Any)
assert_type(app.bus(), MessageBus)
assert_type(app.transport("orders"), Transport)
assert_type(app.worker("orders", limits=Limits(messages=10, time=3600)).run(), WorkerStopped)


async def main() -> None:
    assert_type(await app.dispatch_async(OrderPlaced(13)), Envelope)


# Decorators give back what they got.
@app.message
@dataclass(frozen=True)
class Plain:
    text: str


@app.message("sms.notification", transport="orders", aliases=["sms"], key="text", stamps=[Tenant("acme")])
@dataclass(frozen=True)
class Named:
    text: str


assert_type(Plain("x"), Plain)
assert_type(app.message(stamps=lambda plain: [stamps.Delay(plain.delay)])(Plain), type[Plain])
app.message(stamps=["acme"])  # type: ignore[list-item]  # pyright: ignore[reportCallIssue, reportArgumentType]
assert_type(Named("x").text, str)


@app.handler
def send_receipt(order: OrderPlaced) -> int:
    return order.order_id


@app.handler(bus="default", from_transport="orders", priority=10, name="index", time_limit=30)
async def index(order: OrderPlaced, envelope: Envelope) -> None:
    pass


assert_type(send_receipt(OrderPlaced(13)), int)
reveal_type(send_receipt)  # (order: OrderPlaced) -> int

group = Handlers()


class Billing:
    @handles
    def charge(self, order: OrderPlaced) -> None:
        raise Recoverable("The bank is closed.", delay=3600)

    @handles(priority=1, time_limit=timedelta(minutes=1))
    def refund(self, message: Plain | Named) -> str:
        return message.text


billing = group.handler(Billing())
assert_type(billing, Billing)
assert_type(billing.refund(Plain("x")), str)
app.include(group)


@app.observe
def observe(event: Event) -> None:
    pass


# What handlers need, and hooks.
class Database:
    async def close(self) -> None: ...


def open_database() -> Iterator[Database]:
    yield Database()


async def connect() -> AsyncIterator[Database]:
    database = Database()
    yield database
    await database.close()


@contextmanager
def opened_database() -> Generator[Database]:
    yield Database()


async def make_database() -> Database:
    return Database()


app.provide(Database, Database)
app.provide(Database, open_database)
app.provide(Database, connect)
app.provide(Database, make_database)
app.provide(Database, opened_database)
app.provide(Database, dict)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@app.on_start
def warm_up() -> int:
    return 1


@app.on_stop
async def cool_down() -> None: ...


assert_type(warm_up(), int)
app.on_start(send_receipt)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


# Messages that are ready, and middleware to be named.
app.handler(Redispatcher(app))
app.handler(ProcessRunner(["convert"]))
assert_type(ProcessRunner("*")(RunProcess(["convert", "cat.png"])), Completed)
app.dispatch(Redispatch(OrderPlaced(13), "orders"))
bus_with_both: list[Middleware] = [Validate(lambda order: {"total": "is below 0"}), Deduplicate(MemoryStore())]
TransportConfig(dsn="in-memory://", serializer=signed({"2026-12": "secret"}))


# A test.
with AppTest(app, middleware=[DeliverTwice()]) as test:
    assert_type(test.assert_dispatched(OrderPlaced, where=lambda order: order.order_id == 13), list[OrderPlaced])


# Errors.
try:
    app.dispatch(OrderPlaced(13))
except HandlerFailed as failed:
    assert_type(failed.errors, Mapping[str, Exception])
except TransportError as error:
    assert_type(error.stored, Mapping[int, str | None])
except ConfigurationError as error:
    assert_type(error.problems, tuple[str, ...])


# A plugin.
class AcmeOptions(Options):
    stream: str = option("messages", "The stream.")
    timeout: float = option(30.0, "How long to wait.", unit="seconds", minimum=0)


class AcmeConnection:
    def __init__(self, options: AcmeOptions) -> None: ...


def make_transport(dsn: Dsn, context: TransportContext) -> Transport:
    options = AcmeOptions.from_dsn(dsn)
    assert_type(options.timeout, float)

    def connect() -> Connection:
        raise NotImplementedError

    return QueueTransport(connect, context)


@hookimpl
def register_transports(register: RegisterTransport) -> None:
    register("acme", make_transport, options=AcmeOptions, guarantees=Guarantees(durable=True))
