"""Start every broker, say where each is, and wait for Ctrl-C: for playing by hand."""

from __future__ import annotations

import shlex
import signal
import threading
from contextlib import closing, suppress

import pytest

from tests.brokers.broker import Brokers, find_variants


def main() -> None:
    """Run the program."""
    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, signal.default_int_handler)  # A shell lets its background jobs ignore Ctrl-C.
    with suppress(KeyboardInterrupt), closing(Brokers()) as brokers:
        exports: dict[str, object] = {"POSTBUS_TEST_CERTIFICATES": brokers.certificates.folder}
        for name, variant in find_variants().items():
            if variant.own:
                continue
            try:
                exports |= brokers[name].exports()
            except (pytest.skip.Exception, pytest.fail.Exception) as reason:
                print(f"# {name}: {reason}")
        for variable, value in exports.items():
            print(f"export {variable}={shlex.quote(str(value))}")
        print("# They run until Ctrl-C.", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
