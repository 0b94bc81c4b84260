"""beanstalkd: one server, one that keeps its jobs in memory, and one to break."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from tests.brokers.broker import Broker
from tests.brokers.network import reserve_port
from tests.brokers.server import Server

PACKAGE = "beanstalkd"
PROGRAM = os.environ.get("POSTBUS_TEST_BEANSTALKD_PROGRAM", PACKAGE)
"""What is started."""


class BeanstalkdServer(Server):
    """One process of beanstalkd. Its jobs are in memory only, unless the options say otherwise."""

    def __init__(self, variant: str, program: str, *options: str) -> None:
        self.port = reserve_port()
        super().__init__(f"{variant}-{self.port}")
        self.prepare([program, "-l", "127.0.0.1", "-p", str(self.port), *options], self.answers)

    def client(self) -> Any:
        """Return a client of greenstalk."""
        import greenstalk

        return greenstalk.Client(("127.0.0.1", self.port), encoding=None)

    def answers(self) -> bool:
        """Tell whether it takes connections."""
        try:
            with self.client() as client:
                return bool(client.stats())
        except ConnectionError:
            return False


class Beanstalkd(Broker, variant="beanstalkd"):
    """One server with a log of its jobs."""

    servers: list[BeanstalkdServer]  # type: ignore[assignment]
    options: ClassVar[tuple[str, ...]] = ("-b", ".")

    def launch(self) -> str:
        program = self.find(PROGRAM, package=PACKAGE)
        server = BeanstalkdServer(self.variant, program, *self.options)
        self.servers.append(server)
        server.start()
        return f"beanstalkd://127.0.0.1:{server.port}"

    def client(self) -> Any:
        """Return a client of greenstalk; as another program has one, with bytes for the data of jobs."""
        import greenstalk

        host, _, port = self.dsn.removeprefix("beanstalkd://").rpartition(":")
        return greenstalk.Client((host, int(port)), encoding=None)


class BeanstalkdInMemory(Beanstalkd, variant="beanstalkd_in_memory"):
    """One server that forgets its jobs when it ends."""

    options = ()


class OwnBeanstalkd(Beanstalkd, variant="own_beanstalkd"):
    """One server to break, which has written to its disk whatever it acknowledged."""

    own = True
    options = ("-b", ".", "-f", "0")
