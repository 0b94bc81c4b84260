"""What one thread asks of another."""

from __future__ import annotations

import threading

from postbus_amqp.thread import Call


def test_only_the_first_answer_counts() -> None:
    """Also while whoever waits for it is just taking it, nobody fails, and it stays as it is."""
    results: list[object] = []
    for number in range(3000):
        call = Call()
        waiting = threading.Thread(target=lambda call=call: results.append(call.result(30)))
        waiting.start()
        call.succeed(number)
        call.fail(ValueError("too late"))
        waiting.join()

    assert list(range(3000)) == results
