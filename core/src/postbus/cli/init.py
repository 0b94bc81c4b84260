"""``postbus init``: a first app in an empty folder, which runs as it is."""

from __future__ import annotations

from pathlib import Path

import click

from postbus.errors import ConfigurationError

FILES = {
    "postbus.toml": """\
# What `postbus` and `Postbus()` read in this folder.

app = "shop:app"                    # where the app is: module:attribute
handlers = ["shop.handlers"]        # the modules that have handlers; a worker imports them
failure_transport = "failed"        # keeps what failed for good: see `postbus failed show`

[transports]                        # where messages wait for a worker, by a name of yours
orders = "${ORDERS_DSN:-sqlite:///shop.db?queue_name=orders}"
failed = "${FAILED_DSN:-sqlite:///shop.db?queue_name=failed}"

[routing]                           # which message goes where; one without a route is handled at once
"shop.messages.OrderPlaced" = "orders"

[retry]                             # how often, and when, a message that failed is tried again
max_retries = 3
delay = 1.0                         # seconds; each further one is twice as long
""",
    "shop/__init__.py": '''\
"""The app. It reads postbus.toml in the folder where a program is started."""

from postbus import Postbus

app = Postbus()
''',
    "shop/messages.py": '''\
"""What is said: messages are classes of your own, of values that can be written as JSON."""

from dataclasses import dataclass


@dataclass(frozen=True)
class OrderPlaced:
    order_id: int
''',
    "shop/handlers.py": '''\
"""What is done about it: a handler is a function, and its annotation says which message it takes."""

from shop import app
from shop.messages import OrderPlaced


@app.handler
def send_receipt(order: OrderPlaced) -> None:
    print(f"Receipt for order {order.order_id}")
''',
    "shop/__main__.py": '''\
"""python -m shop: dispatches a message, as your web application would."""

from shop import app
from shop.messages import OrderPlaced

with app:
    app.dispatch(OrderPlaced(order_id=13))
print("Order 13 is placed.")
''',
    "test_shop.py": '''\
"""pytest: sends messages through a queue in memory, and handles all that is waiting."""

import os

os.environ["ORDERS_DSN"] = os.environ["FAILED_DSN"] = "in-memory://"  # Before the app reads its configuration.

from postbus import Limits
from shop import app
from shop.messages import OrderPlaced


def test_a_receipt_is_sent(capsys):
    app.dispatch(OrderPlaced(order_id=7))
    app.worker("orders", limits=Limits(idle=0)).run()

    assert capsys.readouterr().out == "Receipt for order 7\\n"
''',
    "compose.yaml": """\
# A broker in place of the SQLite file:
#
#   docker compose up --detach --wait
#   pip install 'postbus[redis]'
#   export ORDERS_DSN=redis://localhost:6379/orders

services:
  redis:
    image: redis:8
    command: redis-server --appendonly yes --maxmemory-policy noeviction
    ports: ["127.0.0.1:6379:6379"]
    volumes: ["redis:/data"]
    healthcheck:
      test: redis-cli ping
      interval: 1s

volumes:
  redis:
""",
}

NEXT = """\
Next:

  pip install 'postbus[sql,in-memory]' pytest
  python -m shop                      # sends a message
  postbus consume --until-empty       # handles what was sent
  pytest

Another broker is another DSN: see compose.yaml. What there is besides: postbus --help"""


@click.command(epilog="Example: mkdir shop && cd shop && postbus init")
def init() -> None:
    """Write a first app into this folder.

    That is a configuration, a message, a handler, a test, and a compose.yaml with a broker. It overwrites
    nothing, and asks nothing.
    """
    there = ["shop"] if Path("shop").is_file() else [name for name in FILES if Path(name).exists()]
    if there:
        raise ConfigurationError(
            f"Nothing was written, because there already is {', '.join(there)}. Start in an empty folder."
        )
    for name, text in FILES.items():
        path = Path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    click.echo(f"Wrote {', '.join(FILES)}.\n\n{NEXT}")
