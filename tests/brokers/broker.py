"""What a test gets: a broker with a DSN, that it can stop, start, kill and pause, and put a network in front of."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

from tests.brokers.certificates import Certificates, make_certificates
from tests.brokers.network import Partition
from tests.brokers.programs import find
from tests.brokers.server import Guarded, Server

variants: dict[str, type[Broker]] = {}
"""Every variant of every broker, by the name of its fixture."""


class Broker:
    """A broker, shared by the tests that only use it. A subclass with a `variant` is a fixture of that name."""

    variant: ClassVar[str]
    variable: ClassVar[str]
    """The environment variable with the DSN of one that runs already."""
    own: ClassVar[bool] = False
    """Whether it is for tests that break it: never given by the environment, and mended before each test."""
    heavy: ClassVar[bool] = False
    """Whether it takes so much that one process of a run starts it, for all tests that have its kind in their names."""
    part_of: ClassVar[str | None] = None
    """The variant whose servers it uses, if it has none of its own."""

    dsn: str

    def __init_subclass__(cls, variant: str | None = None, variable: str | None = None) -> None:
        if variant is not None:
            cls.variant = variant
            cls.variable = variable or f"POSTBUS_TEST_{variant.upper()}_DSN"
            variants[variant] = cls

    @classmethod
    def kind(cls) -> str:
        """Return the name of its module: ``redis``."""
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def clients(cls) -> list[str]:
        """Return the threads of its clients that are at work in this process, by their names; none outlives a test."""
        return []

    def __init__(self, brokers: Brokers) -> None:
        self.brokers = brokers
        self.servers: list[Server] = []
        given = None if self.own else os.environ.get(self.variable)
        self.given = given is not None
        try:
            self.dsn = self.launch() if given is None else given
        except BaseException:
            self.close()
            raise

    def find(self, program: str, *, package: str, folders: tuple[str, ...] = ()) -> str:
        """Return the path of a program that it needs."""
        otherwise = "" if self.own else f" (or set {self.variable} to the DSN of one that runs)"
        return find(program, package=package, otherwise=otherwise, folders=folders)

    def launch(self) -> str:
        """Start it, with all `servers` it needs, and return its DSN."""
        raise NotImplementedError

    def exports(self) -> dict[str, str]:
        """Return the environment variables that give this broker to another test run."""
        return {self.variable: self.dsn}

    def stop(self) -> None:
        """Stop it in an orderly way."""
        self._need_own()
        for server in reversed(self.servers):
            server.stop()

    def start(self) -> None:
        """Start it again, on the same port and with the same data."""
        self._need_own()
        for server in self.servers:
            server.start()

    def restart(self) -> None:
        """Stop and start it."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._need_own()
        for server in reversed(self.servers):
            server.kill()

    def pause(self) -> None:
        """Halt it with SIGSTOP: it keeps its connections and answers nothing."""
        self._need_own()
        for server in self.servers:
            server.pause()

    def resume(self) -> None:
        """Let a paused broker go on."""
        self._need_own()
        for server in self.servers:
            server.resume()

    def mend(self) -> None:
        """Undo what an earlier test may have done to it."""
        for server in self.servers:
            server.resume()
            server.start()

    @contextmanager
    def partition(self) -> Generator[Partition]:
        """Put a network that can be cut between the broker and whoever uses the partition's DSN."""
        address = urlsplit(self.dsn)
        if "," in self.dsn or address.hostname is None or address.port is None:
            pytest.fail(f"{self.variant} has more than one address, and no network goes in front of it.")
        with Partition(self.dsn, address.hostname, address.port) as partition:
            yield partition

    def close(self) -> None:
        """End it for good."""
        for server in reversed(self.servers):
            server.close()
        self.servers.clear()

    def _need_own(self) -> None:
        if self.given:
            pytest.skip(f"{self.variable} gives the broker, which the tests must not stop.")


class Brokers:
    """The brokers of this test run, each started when it is first asked for; all end with it."""

    def __init__(self) -> None:
        self._started: dict[str, Broker] = {}
        self._stack = ExitStack()

    def __getitem__(self, variant: str) -> Broker:
        if variant not in self._started:
            broker = variants[variant](self)
            self._stack.callback(broker.close)
            self._started[variant] = broker
        return self._started[variant]

    @cached_property
    def certificates(self) -> Certificates:
        """The files for TLS, from the folder that POSTBUS_TEST_CERTIFICATES names, or new."""
        given = os.environ.get("POSTBUS_TEST_CERTIFICATES")
        if given is not None:
            return Certificates(Path(given))
        guarded = Guarded("certificates")
        self._stack.callback(guarded.close)
        return make_certificates(guarded.folder)

    def end(self, variant: str) -> None:
        """End one, if it was started; who asks for it later gets another."""
        if variant in self._started:
            self._started.pop(variant).close()

    def close(self) -> None:
        """End all of them."""
        self._started.clear()
        self._stack.close()


def find_variants() -> dict[str, type[Broker]]:
    """Return all variants, of every module in this folder."""
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        if not path.name.startswith("test_"):
            import_module(f"tests.brokers.{path.stem}")
    return variants
