"""A small app on the transport that a plugin author has rendered: one process dispatches, another one handles."""

import os
from dataclasses import dataclass

from postbus import Postbus


@dataclass(frozen=True)
class OrderPlaced:
    order_id: int


app = Postbus(transports={"orders": os.environ["ORDERS_DSN"]}, routing={OrderPlaced: "orders"})


@app.handler
def confirm(order: OrderPlaced) -> None:
    """Say which order it is."""
    print(f"Order {order.order_id} is confirmed.")


if __name__ == "__main__":
    app.dispatch(OrderPlaced(13))
