"""Procrastinate."""

from __future__ import annotations

import asyncio

from procrastinate import App, PsycopgConnector

from benchmarks.peers import CUSTOMER, QUEUE, Tally

BATCH = 1000


class Peer:
    """One task at a time; jobs that have succeeded are deleted."""

    def __init__(self, url: str) -> None:
        self._tally = tally = Tally()
        self._app = App(connector=PsycopgConnector(conninfo=url))

        @self._app.task(queue=QUEUE, name="do_nothing")
        async def do_nothing(number: int, customer: str) -> None:
            tally(number)

        self._task = do_nothing

    def purge(self) -> None:
        async def purge() -> None:
            async with self._app.open_async() as app:
                if not await app.check_connection_async():
                    await app.schema_manager.apply_schema_async()
                await app.connector.execute_query_async("TRUNCATE procrastinate_jobs CASCADE")

        asyncio.run(purge())

    def enqueue(self, numbers: range) -> None:
        async def enqueue() -> None:
            async with self._app.open_async():
                for number in numbers:
                    await self._task.defer_async(number=number, customer=CUSTOMER)

        asyncio.run(enqueue())

    def enqueue_many(self, numbers: range) -> None:
        async def enqueue() -> None:
            async with self._app.open_async():
                for start in range(0, len(numbers), BATCH):
                    batch = numbers[start : start + BATCH]
                    jobs: list[dict[str, object]] = [{"number": number, "customer": CUSTOMER} for number in batch]
                    await self._task.batch_defer_async(*jobs)  # type: ignore[arg-type]

        asyncio.run(enqueue())

    def work(self, count: int) -> float:
        self._tally.expect(count, lambda: None)

        async def work() -> None:
            async with self._app.open_async() as app:
                await app.run_worker_async(
                    queues=[QUEUE], wait=False, concurrency=1, delete_jobs="successful", install_signal_handlers=False
                )

        asyncio.run(work())
        return self._tally.seconds


make = Peer
