"""Start every broker, say where each is, and wait for Ctrl-C: for playing by hand."""

from __future__ import annotations

import shlex
import signal
import threading
from contextlib import closing, suppress

import pytest

from tests.brokers.broker import Brokers, find_variants
from tests.brokers.rabbitmq import RabbitMQ


def main() -> None:
    """Run the program."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), closing(Brokers()) as brokers:
        for name, variant in find_variants().items():
            if variant.own:
                continue
            try:
                broker = brokers[name]
            except (pytest.skip.Exception, pytest.fail.Exception) as reason:
                print(f"# {name}: {reason}")
                continue
            print(f"export {variant.variable}={shlex.quote(broker.dsn)}", flush=True)
            if isinstance(broker, RabbitMQ) and name == "rabbitmq":
                print(f"export POSTBUS_TEST_RABBITMQ_MANAGEMENT={broker.management_url}")
        print(f"export POSTBUS_TEST_CERTIFICATES={brokers.certificates.folder}")
        print("# Until Ctrl-C.", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
