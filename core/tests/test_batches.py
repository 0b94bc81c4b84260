"""Handlers that get several messages at once: what is in a batch, when it is begun, and what becomes of each."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from postbus import Batch, ConfigurationError, Envelope, HandlerFailed, Limits, Postbus, Unrecoverable, stamps
from postbus.errors import BatchFailed, PostbusError
from postbus.events import Event, MessageHandled, WorkerStopped
from postbus.transport import Outgoing

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""

LONG = 10 * PATIENCE
"""Seconds that no test takes."""


@dataclass(frozen=True)
class Page:
    number: int


@dataclass(frozen=True)
class Link:
    number: int


def make_app(**options: Any) -> Postbus:
    return Postbus(
        transports={"pages": "in-memory://", "links": "in-memory://", "failed": "in-memory://"},
        routing={Page: "pages", Link: options.pop("links", "pages")},
        failure_transport="failed",
        retry=options.pop("retry", {"max_retries": 1, "delay": 10, "jitter": 0}),
        **options,
    )


@pytest.fixture
def app() -> Postbus:
    return make_app()


def transport(app: Postbus, name: str) -> Any:
    return app.transport(name)


def work(app: Postbus, *names: str, **options: Any) -> WorkerStopped:
    return app.worker(*(names or ("pages",)), limits=Limits(idle=0), **options).run()


def acknowledged(app: Postbus) -> list[int]:
    return sorted(envelope.message.number for envelope in transport(app, "pages").acknowledged)


def buried(app: Postbus) -> list[int]:
    return sorted(envelope.message.number for envelope in transport(app, "failed").sent)


# what is begun when


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_batch_is_handed_over_when_it_is_full(app: Postbus, concurrency: int) -> None:
    """A handler gets as many messages as it wants at most, in their order, and each is settled by itself."""
    batches: list[list[int]] = []

    @app.handler(batch=10, wait=LONG)
    def index(pages: list[Page]) -> None:
        batches.append([page.number for page in pages])

    app.dispatch_many(Page(n) for n in range(30))
    stopped = app.worker("pages", limits=Limits(messages=30), concurrency=concurrency).run()

    assert [[*range(10)], [*range(10, 20)], [*range(20, 30)]] == sorted(batches)
    assert (30, 0) == (stopped.handled, stopped.failed)
    assert [*range(30)] == acknowledged(app)


def test_a_batch_that_is_not_full_is_begun_when_nothing_comes(app: Postbus) -> None:
    """It does not wait for the messages that are missing, once its transport had none when it was asked."""
    batches: list[int] = []

    @app.handler(batch=100, wait=LONG)
    def index(pages: list[Page]) -> None:
        batches.append(len(pages))

    app.dispatch_many(Page(n) for n in range(7))
    work(app)
    assert [7] == batches
    assert [*range(7)] == acknowledged(app)


def test_a_batch_is_begun_when_its_first_message_has_waited(app: Postbus) -> None:
    """Messages that come one by one, each before the worker takes a break for the end, keep none waiting for ever."""
    batches: list[int] = []
    is_begun = threading.Event()

    @app.handler(batch=1_000_000, wait=1.0)
    def index(pages: list[Page]) -> None:
        batches.append(len(pages))
        is_begun.set()

    worker = app.worker("pages")
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    number = 0
    while not is_begun.wait(0.01):
        app.dispatch(Page(number))
        number += 1
        assert number < 100 * PATIENCE
    worker.stop()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert batches[0] > 1


def test_a_limit_of_messages_begins_what_there_is(app: Postbus) -> None:
    """No more is taken in hand than the limit allows, so a batch is not waited for that cannot become full."""
    batches: list[int] = []

    @app.handler(batch=10, wait=LONG)
    def index(pages: list[Page]) -> None:
        batches.append(len(pages))

    app.dispatch_many(Page(n) for n in range(40))
    stopped = app.worker("pages", limits=Limits(messages=25)).run()
    assert [10, 10, 5] == batches
    assert 25 == stopped.handled
    assert 15 == transport(app, "pages").connection.count().waiting


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_worker_that_stops_begins_what_it_has_gathered(app: Postbus, concurrency: int) -> None:
    """What waits for others is handled before the worker ends, and acknowledged."""
    batches: list[list[int]] = []

    @app.handler(batch=10, wait=LONG)
    def index(pages: list[Page]) -> None:
        batches.append([page.number for page in pages])

    @app.handler
    def stop(link: Link) -> None:
        worker.stop()

    app.dispatch_many([Page(1), Page(2), Page(3), Link(4)])
    worker = app.worker("pages", concurrency=concurrency)
    stopped = worker.run()

    assert [[1, 2, 3]] == batches
    assert (4, 0) == (stopped.handled, stopped.failed)
    assert [1, 2, 3, 4] == acknowledged(app)


def test_a_signal_begins_what_was_gathered(app: Postbus) -> None:
    """SIGTERM is no reason to give back what is only waiting for others."""
    batches: list[int] = []

    @app.handler(batch=10, wait=LONG)
    def index(pages: list[Page]) -> None:
        assert threading.current_thread() is threading.main_thread()
        batches.append(len(pages))

    @app.handler
    def stop(link: Link) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    app.dispatch_many([Page(1), Page(2), Link(3)])
    stopped = app.worker("pages").run()
    assert [2] == batches
    assert "SIGTERM" in stopped.reason
    assert [1, 2, 3] == acknowledged(app)


def test_a_batch_that_does_not_end_in_time_is_given_back(app: Postbus) -> None:
    """When the grace is over, all messages of a batch that still runs go back, and so does what was gathered."""

    @app.handler(batch=2, wait=LONG)
    def index(pages: list[Page]) -> None:
        worker.stop()
        threading.Event().wait(PATIENCE)

    app.dispatch_many(Page(n) for n in range(3))
    worker = app.worker("pages", grace=0.2)
    stopped = worker.run()
    assert (0, 0) == (stopped.handled, stopped.failed)
    assert 3 == transport(app, "pages").connection.count().waiting


def test_other_messages_go_on_while_a_batch_fills(app: Postbus) -> None:
    """What has no batch handler waits for no batch."""
    told: list[str] = []

    @app.handler(batch=10, wait=LONG)
    def index(pages: list[Page]) -> None:
        told.append("pages")

    @app.handler
    def follow(link: Link) -> None:
        told.append("link")

    app.dispatch_many([Page(1), Link(2), Link(3), *(Page(n) for n in range(9))])
    app.worker("pages", limits=Limits(messages=12)).run()
    assert ["link", "link", "pages"] == told


def test_several_batches_are_handled_at_once(app: Postbus) -> None:
    """A batch takes one slot: with a concurrency of 3, three of them run beside each other."""
    barrier = threading.Barrier(3)

    @app.handler(batch=5, wait=LONG)
    def index(pages: list[Page]) -> None:
        barrier.wait(PATIENCE)

    app.dispatch_many(Page(n) for n in range(15))
    stopped = app.worker("pages", limits=Limits(messages=15), concurrency=3).run()
    assert (15, 0) == (stopped.handled, stopped.failed)


def test_an_async_handler_gets_batches(app: Postbus) -> None:
    """A coroutine is waited for, and its messages are acknowledged then; beside async handlers of single messages."""
    told: list[object] = []

    @app.handler(batch=5, wait=LONG)
    async def index(pages: list[Page]) -> None:
        await asyncio.sleep(0)
        told.append(len(pages))

    @app.handler
    async def follow(link: Link) -> None:
        await asyncio.sleep(0)
        told.append(link)

    app.dispatch_many(
        [*(Page(n) for n in range(5)), *(Link(n) for n in range(5, 10)), *(Page(n) for n in range(10, 15))]
    )
    stopped = app.worker("pages", limits=Limits(messages=15), concurrency=50).run()
    assert (15, 0) == (stopped.handled, stopped.failed)
    assert 2 == told.count(5)
    assert [*range(15)] == acknowledged(app)


def test_each_transport_has_batches_of_its_own() -> None:
    """What one transport has does not fill the batch of another one."""
    app = make_app(links="links")
    batches: list[list[type]] = []

    @app.handler(batch=4, wait=LONG)
    def index(things: list[Page | Link]) -> None:
        batches.append([type(thing) for thing in things])

    app.dispatch_many([Page(1), Link(1), Page(2), Link(2)])
    work(app, "pages", "links")
    assert [[Link, Link], [Page, Page]] == sorted(batches, key=str)


def test_messages_of_several_types_share_a_batch(app: Postbus) -> None:
    """A handler of a union gets what comes, in the order in which it came."""
    batches: list[Sequence[object]] = []

    @app.handler(batch=4, wait=LONG)
    def index(things: list[Page | Link]) -> None:
        batches.append(things)

    app.dispatch_many([Page(1), Link(2), Page(3), Link(4)])
    work(app)
    assert [[Page(1), Link(2), Page(3), Link(4)]] == batches


# what becomes of each


def test_a_batch_that_raises_loses_none(app: Postbus) -> None:
    """Each of its messages is retried, and comes by itself then, so that none of them fails for another one again."""
    batches: list[list[int]] = []

    @app.handler(batch=10, wait=LONG)
    def index(pages: list[Page]) -> None:
        batches.append([page.number for page in pages])
        if any(page.number == 3 for page in pages):
            raise ValueError("no page 3")

    app.dispatch_many(Page(n) for n in range(5))
    work(app)
    assert [[0, 1, 2, 3, 4]] == batches
    assert 5 == transport(app, "pages").connection.count().delayed

    transport(app, "pages").clock.move(10)
    work(app)
    assert [[0], [1], [2], [3], [4]] == sorted(batches[1:])
    assert [3] == buried(app)
    [grave] = transport(app, "failed").sent
    assert ["no page 3"] * 2 == [details.message for details in grave.all(stamps.ErrorDetails)]


def test_what_is_hopeless_of_a_batch_may_be_so_of_one(app: Postbus) -> None:
    """Unrecoverable, raised for several messages, buries none of them before it has been tried by itself."""

    @app.handler(batch=10, wait=LONG)
    def index(pages: list[Page]) -> None:
        for page in pages:
            if page.number == 3:
                raise Unrecoverable("no page 3")

    app.dispatch_many(Page(n) for n in range(5))
    work(app)
    assert [] == buried(app)
    transport(app, "pages").clock.move(10)
    work(app)
    assert [3] == buried(app)
    [grave] = transport(app, "failed").sent
    assert [BatchFailed.__name__, Unrecoverable.__name__] == [
        details.type.rpartition(".")[2] for details in grave.all(stamps.ErrorDetails)
    ]


def test_items_are_acked_and_failed_one_by_one(app: Postbus) -> None:
    """What a handler acks is handled, what it fails goes its own way, and the error says why."""

    @app.handler(batch=10, wait=LONG)
    def index(pages: Batch[Page]) -> None:
        assert pages.messages == [page.message for page in pages]
        for item in pages:
            if item.message.number % 2:
                item.fail(Unrecoverable(f"odd: {item.message.number}"))
            else:
                item.ack()

    app.dispatch_many(Page(n) for n in range(6))
    stopped = work(app)
    assert (3, 3) == (stopped.handled, stopped.failed)
    assert [1, 3, 5] == buried(app)
    assert {"odd: 1", "odd: 3", "odd: 5"} == {
        envelope.last(stamps.ErrorDetails).message for envelope in transport(app, "failed").sent
    }


def test_what_was_acked_before_a_handler_raises_is_handled(app: Postbus) -> None:
    """The others have failed with what it raises."""

    @app.handler(batch=10, wait=LONG)
    def index(pages: Batch[Page]) -> None:
        pages[0].ack()
        pages[1].fail(Unrecoverable("not this one"))
        raise ValueError("and no other")

    app.dispatch_many(Page(n) for n in range(4))
    stopped = work(app)
    assert (1, 3) == (stopped.handled, stopped.failed)
    assert [1] == buried(app)
    assert 2 == transport(app, "pages").connection.count().delayed


def test_what_a_handler_forgets_has_failed(app: Postbus) -> None:
    """An item that was neither acked nor failed is retried: nobody knows that anything was done for it."""

    @app.handler(batch=10, wait=LONG)
    def index(pages: Batch[Page]) -> None:
        pages[0].ack()

    app.dispatch_many([Page(1), Page(2)])
    stopped = work(app)
    assert (1, 1) == (stopped.handled, stopped.failed)
    transport(app, "pages").clock.move(10)


def test_an_item_is_settled_once(app: Postbus) -> None:
    """A second word about an item is an error, and so is one after its handler has returned."""
    problems: list[str] = []
    kept: list[Any] = []

    @app.handler(batch=10, wait=LONG)
    def index(pages: Batch[Page]) -> None:
        pages[0].ack()
        with pytest.raises(PostbusError) as caught:
            pages[0].fail(ValueError())
        problems.append(str(caught.value))
        kept.append(pages[0])

    app.dispatch(Page(1))
    work(app)
    with pytest.raises(PostbusError) as caught:
        kept[0].ack()
    problems.append(str(caught.value))
    assert [
        "Nothing can be said of Page any more, as it was acked or failed before.",
        "Nothing can be said of Page any more, as its handler has returned.",
    ] == problems


def test_a_handler_that_exits_stops_the_worker(app: Postbus) -> None:
    """SystemExit is a failure of the batch, and ends the worker after it."""

    @app.handler(batch=10, wait=LONG)
    def index(pages: list[Page]) -> None:
        raise SystemExit(3)

    app.dispatch_many([Page(1), Page(2)])
    with pytest.raises(SystemExit):
        app.worker("pages").run()
    assert 2 == transport(app, "pages").connection.count().delayed


def test_a_batch_that_takes_too_long_has_failed(app: Postbus) -> None:
    """At its time limit the handler is interrupted, and each of its messages is retried."""

    @app.handler(batch=10, wait=LONG, time_limit=0.1)
    def index(pages: list[Page]) -> None:
        threading.Event().wait(PATIENCE)

    app.dispatch_many([Page(1), Page(2)])
    stopped = app.worker("pages", limits=Limits(messages=2)).run()
    assert (0, 2) == (stopped.handled, stopped.failed)
    assert 2 == transport(app, "pages").connection.count().delayed


def test_a_batch_that_is_stuck_has_failed(app: Postbus) -> None:
    """In a thread nothing interrupts it: its worker stops, and all of its messages are retried then."""
    is_over = threading.Event()

    @app.handler(batch=10, wait=LONG, time_limit=0.1)
    def index(pages: list[Page]) -> None:
        is_over.wait(PATIENCE)

    app.dispatch_many([Page(1), Page(2)])
    stopped = app.worker("pages", limits=Limits(messages=2), concurrency=2, grace=0).run()
    is_over.set()
    assert stopped.stuck
    assert (0, 2) == (stopped.handled, stopped.failed)
    assert 2 == transport(app, "pages").connection.count().delayed


def test_what_cannot_be_decoded_is_in_no_batch(app: Postbus) -> None:
    """Also where a handler takes everything."""
    batches: list[Sequence[object]] = []

    @app.handler(batch=10, wait=LONG, handles="*")
    def index(things: list[Any]) -> None:
        batches.append(things)

    app.dispatch_many([Page(1), Page(2)])
    transport(app, "pages").connection.publish([Outgoing(b"{", {"type": "nobody"})])
    app.worker("pages", limits=Limits(messages=3)).run()
    assert [[Page(1), Page(2)]] == batches


# several handlers


def test_only_the_handler_that_failed_is_run_again(app: Postbus) -> None:
    """Beside a batch handler, a plain one has each message by itself; neither runs again for the other's failure."""
    batches: list[list[int]] = []
    seen: list[int] = []

    @app.handler(batch=10, wait=LONG)
    def index(pages: list[Page]) -> None:
        batches.append([page.number for page in pages])

    @app.handler
    def log(page: Page) -> None:
        seen.append(page.number)
        if page.number == 2 and seen.count(2) == 1:
            raise ValueError("not yet")

    app.dispatch_many(Page(n) for n in range(4))
    work(app)
    transport(app, "pages").clock.move(10)
    work(app)
    assert [[0, 1, 2, 3]] == batches
    assert [0, 1, 2, 3, 2] == seen
    assert [] == buried(app)


def test_a_handler_that_succeeded_is_not_run_again_after_its_batch_failed(app: Postbus) -> None:
    """What the plain handler did counts, and so does what another batch handler did."""
    seen: list[int] = []
    sizes: list[int] = []

    @app.handler
    def log(page: Page) -> None:
        seen.append(page.number)

    @app.handler(batch=10, wait=LONG)
    def index(pages: list[Page]) -> None:
        if len(pages) > 1:
            raise ValueError("not together")

    @app.handler(batch=2, wait=LONG)
    def count(pages: list[Page]) -> None:
        sizes.append(len(pages))

    app.dispatch_many(Page(n) for n in range(4))
    work(app)
    transport(app, "pages").clock.move(10)
    stopped = work(app)
    assert (4, 0) == (stopped.handled, stopped.failed)
    assert [0, 1, 2, 3] == seen
    assert [2, 2] == sizes


def test_middleware_sees_each_message_before_the_batch() -> None:
    """What it refuses is not in the batch, and does not keep others from it."""
    batches: list[list[int]] = []

    def refuse_odd(envelope: Envelope, call_next: Any) -> Envelope:
        if envelope.has(stamps.Received) and envelope.message.number % 2:
            raise Unrecoverable("odd")
        result: Envelope = call_next(envelope)
        return result

    app = make_app(buses={"default": {"middleware": [refuse_odd]}})

    @app.handler(batch=10, wait=LONG)
    def index(pages: list[Page]) -> None:
        batches.append([page.number for page in pages])

    app.dispatch_many(Page(n) for n in range(5))
    work(app)
    assert [[0, 2, 4]] == batches
    assert [1, 3] == buried(app)


def test_what_fails_after_the_handlers_leaves_nothing_to_a_batch() -> None:
    """A middleware that raises once all handlers had a message has it done again whole, and the batch goes without."""
    batches: list[list[int]] = []
    refused: list[int] = []

    def refuse_once(envelope: Envelope, call_next: Any) -> Envelope:
        result: Envelope = call_next(envelope)
        if envelope.has(stamps.Received) and envelope.message.number == 1 and not refused:
            refused.append(1)
            raise ValueError("too late")
        return result

    app = make_app(buses={"default": {"middleware": [refuse_once]}})

    @app.handler(batch=10, wait=LONG)
    def index(pages: list[Page]) -> None:
        batches.append([page.number for page in pages])

    app.dispatch_many(Page(n) for n in range(3))
    work(app)
    transport(app, "pages").clock.move(10)
    work(app)
    assert [[0, 2], [1]] == batches


def test_a_message_that_a_handler_dispatches_is_not_taken_for_one_of_the_batch(app: Postbus) -> None:
    """What is handled at once within a message that is being collected has its handler called at once."""
    batches: list[list[int]] = []

    @app.handler(batch=10, wait=LONG)
    def index(pages: list[Page | Link]) -> None:
        batches.append([page.number for page in pages])

    @app.handler(priority=1)
    def dispatch(page: Page) -> None:
        app.dispatch(Link(page.number + 10), stamps.HERE)

    app.dispatch_many([Page(1), Page(2)])
    work(app)
    assert [[11], [12], [1, 2]] == batches


# what is dispatched meanwhile


class Tenant(stamps.Stamp):
    """Goes on to what is dispatched meanwhile."""

    wire_name = "tenant-of-batches"
    propagates = True
    name: str


def test_what_a_batch_dispatches_inherits_what_its_messages_have_in_common() -> None:
    """Of several messages that is the conversation, and the stamps that propagate, if all have the same; no cause."""
    app = make_app(links="links")

    @app.handler(batch=10, wait=LONG)
    def index(pages: list[Page]) -> None:
        app.dispatch(Link(pages[0].number))

    together = stamps.Correlation("c")
    app.dispatch(Page(1), together, Tenant("a"))
    app.dispatch(Page(2), together, Tenant("a"))
    app.worker("pages", limits=Limits(messages=2)).run()
    app.dispatch(Page(3), together, Tenant("a"))
    app.dispatch(Page(4), Tenant("b"))
    app.worker("pages", limits=Limits(messages=2)).run()
    alone = app.dispatch(Page(5), Tenant("c"))
    app.worker("pages", limits=Limits(messages=1)).run()

    first, second, third = transport(app, "links").sent
    assert (together, Tenant("a"), None) == (
        first.last(stamps.Correlation),
        first.last(Tenant),
        first.last(stamps.Causation),
    )
    assert together != second.last(stamps.Correlation)
    assert not second.has(Tenant)
    assert alone.last(stamps.MessageId).id == third.last(stamps.Causation).id
    assert (alone.last(stamps.Correlation), Tenant("c")) == (third.last(stamps.Correlation), third.last(Tenant))


def test_what_is_deferred_waits_for_the_batch(app: Postbus) -> None:
    """It is sent once the handler has returned, and forgotten if that raises."""
    waiting: list[int] = []

    @app.handler(batch=10, wait=LONG)
    def index(pages: list[Page]) -> None:
        app.dispatch(Link(pages[0].number), stamps.AfterCurrent(), stamps.TransportNames(["links"]))
        waiting.append(transport(app, "links").connection.count().waiting)
        if pages[0].number > 1:
            raise ValueError

    app.dispatch(Page(1))
    app.worker("pages", limits=Limits(messages=1)).run()
    app.dispatch_many([Page(2), Page(3)])
    app.worker("pages", limits=Limits(messages=2)).run()
    assert [0, 1] == waiting
    assert [Link(1)] == [envelope.message for envelope in transport(app, "links").sent]


# without a worker


def test_without_a_worker_each_message_is_a_batch_at_once() -> None:
    """Where a message is handled as it is dispatched, nobody waits for others: the batch has one."""
    app = Postbus()
    batches: list[list[int]] = []

    @app.handler(batch=10, wait=LONG)
    def index(pages: list[Page]) -> None:
        batches.append([page.number for page in pages])

    @app.handler(batch=10, wait=LONG)
    def follow(links: Batch[Link]) -> None:
        links[0].ack(links[0].message.number * 2)

    app.dispatch(Page(1))
    app.dispatch_many([Page(2), Page(3)])
    assert [[1], [2], [3]] == batches
    assert 8 == app.query(Link(4))


def test_without_a_worker_a_failed_item_raises() -> None:
    """Who dispatches learns of it, also if the item was failed and nothing was raised, or it was forgotten."""
    app = Postbus()

    @app.handler(batch=10, wait=LONG)
    def index(pages: Batch[Page]) -> None:
        if pages[0].message.number:
            pages[0].fail(ValueError("no such page"))

    with pytest.raises(HandlerFailed, match="no such page"):
        app.dispatch(Page(1))
    with pytest.raises(HandlerFailed, match="neither acked nor failed"):
        app.dispatch(Page(0))


def test_what_goes_through_sync_is_a_batch_at_once() -> None:
    """As without a worker, and also in one, while another batch is collected."""
    app = Postbus(transports={"now": "sync://", "pages": "in-memory://"}, routing={Page: "pages", Link: "now"})
    batches: list[Sequence[object]] = []

    @app.handler(batch=10, wait=LONG)
    def index(things: list[Page | Link]) -> None:
        batches.append(things)

    @app.handler(priority=1)
    def dispatch(page: Page) -> None:
        app.dispatch(Link(page.number))

    app.dispatch_many([Page(1), Page(2)])
    app.worker("pages", limits=Limits(messages=2)).run()
    assert [[Link(1)], [Link(2)], [Page(1), Page(2)]] == batches


# what observers see


def test_each_message_of_a_batch_is_told_of(app: Postbus) -> None:
    """An observer is told of each as of any other, with the handlers that have succeeded."""
    told: list[Event] = []
    app.observe(told.append)

    @app.handler(batch=10, wait=LONG)
    def index(pages: Batch[Page]) -> None:
        for item in pages:
            item.ack(item.message.number)

    app.dispatch_many([Page(1), Page(2)])
    work(app)
    handled = [event.envelope for event in told if isinstance(event, MessageHandled)]
    assert [Page(1), Page(2)] == [envelope.message for envelope in handled]
    assert [[1], [2]] == [[result.value for result in envelope.all(stamps.Result)] for envelope in handled]
    assert [1, 1] == [len(envelope.all(stamps.Handled)) for envelope in handled]


# what may be a batch handler


def take_one(page: Page) -> None: ...
def take_bare(pages: list) -> None: ...  # type: ignore[type-arg]
def take_many(pages: list[Page]) -> None: ...
def take_envelope(pages: list[Page], envelope: Envelope) -> None: ...
def take_stamp(pages: list[Page], tenant: Tenant) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "problem"),
    [
        (take_one, {"batch": 10}, "gets several messages at once. Annotate its first parameter as list[...]"),
        (take_bare, {"batch": 10}, "gets several messages at once. Annotate its first parameter as list[...]"),
        (take_many, {"batch": 0}, "must be a number of messages from 1 up, got 0"),
        (take_many, {"batch": True}, "must be a number of messages from 1 up, got True"),
        (take_many, {"batch": 10, "wait": -1}, "must be a number of seconds from 0 up, or a timedelta, got -1"),
        (take_many, {"wait": 1}, "has a wait and no batch"),
        (take_envelope, {"batch": 10}, "take a Batch, whose items have them"),
        (take_stamp, {"batch": 10}, "take a Batch, whose items have them"),
    ],
)
def test_what_cannot_be_a_batch_handler(function: Any, options: dict[str, Any], problem: str) -> None:
    """The error says what is wrong, and what to write."""
    with pytest.raises(ConfigurationError) as caught:
        Postbus().handler(function, **options)
    assert problem in str(caught.value)


class Index:
    """What a batch handler is given besides."""


def test_a_batch_handler_gets_what_is_provided(app: Postbus) -> None:
    """Once for all messages of a batch; and ``handles`` says which, where the annotation does not."""
    given: list[tuple[int, Index]] = []
    app.provide(Index, Index)

    @app.handler(batch=10, handles=[Page, Link])
    def index(things: list[Any], index: Index) -> None:
        given.append((len(things), index))

    app.dispatch_many([Page(1), Link(2)])
    work(app)
    assert [(2, Index)] == [(number, type(one)) for number, one in given]
