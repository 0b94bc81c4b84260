#!/bin/sh
# taskiq 0.13: a message that is not what the task's annotation says is handled all the same. The worker tries to make
# the annotated class of what came, logs a warning when it cannot, and calls the task with the dict in its place. A task
# that stores or passes on its argument succeeds with it, and the message is gone.
#
# One would expect a message of an older class, whose successor has one more field, to fail, so that a retry or somebody
# sees it: a parameter that is annotated with a model holds that model. Here validation is a matter of the log.
#
# Needs Python 3.11 or later. Takes about 15 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check taskiq==0.13.0 taskiq-dependencies==1.5.7 pydantic==2.14.4
cat > orders.py <<'PYTHON'
import asyncio
import logging
from importlib.metadata import version

from pydantic import BaseModel
from taskiq import InMemoryBroker

logging.basicConfig(format="log: %(levelname)s %(message)s")
broker = InMemoryBroker(await_inplace=True)
stored = []


class OrderOfYesterday(BaseModel):
    id: int


class Order(BaseModel):
    id: int
    customer: str


@broker.task
async def store(order: Order) -> None:
    stored.append(order)


async def main() -> None:
    print("taskiq", version("taskiq"))
    for order in (Order(id=1, customer="Ada"), OrderOfYesterday(id=2)):
        task = await store.kiq(order)
        result = await task.wait_result()
        print(f"{type(order).__name__}: failed={result.is_err}, the task was given {stored[-1:]!r}")
    assert [type(order) for order in stored] == [Order, dict], "It is not as it was."


asyncio.run(main())
PYTHON
venv/bin/python orders.py 2>log
grep '^log: ' log
