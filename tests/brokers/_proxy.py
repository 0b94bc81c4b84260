"""The process behind `network.Partition`: a TCP proxy that obeys the lines of its standard input."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections import deque
from collections.abc import Coroutine


class End(asyncio.Protocol):
    """One of the two ends of a connection through the proxy: it passes what comes in to the other."""

    def __init__(self, proxy: Proxy, client: End | None = None) -> None:
        self.proxy = proxy
        self.is_client = client is None
        self.other = client or End(proxy, self)
        self.transport: asyncio.Transport | None = None
        self.waiting: deque[tuple[float, bytes]] = deque()
        """What is to be written here later; no bytes mean the end."""
        self.lost = False
        self.forgotten = False
        """Whether it was open in a black hole, and will never hear anything again."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.proxy.ends.add(self)
        if self.proxy.server is None or self.other.lost:
            self.reset()  # Cut, or left, while it was being made.
        elif not self.is_client:
            self.other.listen(True)
        elif self.proxy.swallows:
            self.forgotten = True
        else:
            self.listen(False)
            self.proxy.begin(self.connect())

    async def connect(self) -> None:
        """Connect the other end to the broker, or reset this one if there is none."""
        try:
            await self.proxy.loop.create_connection(lambda: self.other, *self.proxy.broker)
        except OSError:
            self.reset()

    def data_received(self, data: bytes) -> None:
        if not self.is_client and self.proxy.is_to_be_lost(data):
            self.reset()
            self.other.reset()
        elif not self.forgotten:
            self.other.write(data)

    def eof_received(self) -> bool:
        return False  # Close this end when it is finished on the other side.

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.proxy.ends.discard(self)
        if not self.forgotten:
            self.other.write(b"")
        elif not self.proxy.swallows:
            self.other.learn_of_loss()

    def pause_writing(self) -> None:
        self.other.listen(False)

    def resume_writing(self) -> None:
        self.other.listen(True)

    def listen(self, whether: bool) -> None:
        """Read what comes in, or leave it to wait."""
        if self.transport is not None and not self.transport.is_closing():
            (self.transport.resume_reading if whether else self.transport.pause_reading)()

    def write(self, data: bytes) -> None:
        """Write, after the delay that is set; what came before goes before."""
        if not self.waiting and not self.proxy.delay:
            self.write_now(data)
            return
        self.waiting.append((self.proxy.loop.time() + self.proxy.delay, data))
        if len(self.waiting) == 1:
            self.proxy.loop.call_at(self.waiting[0][0], self.write_due)

    def write_due(self) -> None:
        """Write what is due, or all if there is no delay any more, and come again for the rest."""
        while self.waiting and (not self.proxy.delay or self.waiting[0][0] <= self.proxy.loop.time()):
            self.write_now(self.waiting.popleft()[1])
        if self.waiting:
            self.proxy.loop.call_at(self.waiting[0][0], self.write_due)

    def write_now(self, data: bytes) -> None:
        """Write, or close; forget it if there is nobody any more who would hear."""
        if self.transport is None or self.lost or self.forgotten:
            return
        if data:
            self.transport.write(data)
        else:
            self.transport.close()

    def learn_of_loss(self) -> None:
        """Tell a broker that a forgotten client has gone. A client is told nothing."""
        if not self.is_client:
            self.reset()

    def reset(self) -> None:
        """Break the connection, so that the peer sees a reset and not an orderly end."""
        self.waiting.clear()
        if self.transport is None or self.lost:
            return
        connection: socket.socket = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Proxy:
    """The port that clients connect to, and what is done to their connections."""

    def __init__(self, port: int, broker: tuple[str, int]) -> None:
        self.port = port
        self.broker = broker
        self.loop = asyncio.get_running_loop()
        self.ends: set[End] = set()
        self.swallows = False
        self.delay = 0.0
        self.losses = 0
        self.lost_text = b""
        self.server: asyncio.Server | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    def begin(self, coroutine: Coroutine[None, None, None]) -> None:
        """Run a coroutine in the background."""
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def is_to_be_lost(self, reply: bytes) -> bool:
        """Say whether a connection is to be reset in place of what the broker says."""
        if self.losses and self.lost_text in reply:
            self.losses -= 1
            return True
        return False

    async def open(self) -> None:
        """Take connections."""
        if self.server is None:
            self.server = await self.loop.create_server(lambda: End(self), "127.0.0.1", self.port, backlog=1000)

    async def obey(self, command: str, *arguments: str) -> int:
        """Do what a line says; return how many connections there are."""
        match command:
            case "cut":
                if self.server is not None:
                    self.server.close()
                    self.server = None
                for task in list(self.tasks):
                    task.cancel()
                for end in list(self.ends):
                    end.reset()
                await asyncio.sleep(0)  # They are closed in the loop's next round.
            case "black-hole":
                await self.open()
                self.swallows = True
                for end in list(self.ends):
                    end.forgotten = end.other.forgotten = True
                    end.waiting.clear()
                    end.listen(True)
            case "delay":
                self.delay = float(arguments[0])
            case "lose-replies":
                self.losses, self.lost_text = int(arguments[0]), arguments[1].encode()
            case "heal":
                await self.open()
                self.swallows, self.delay = False, 0.0
                for end in list(self.ends):
                    end.write_due()
                    if end.other.lost:
                        end.learn_of_loss()
            case _:
                pass  # They are only counted.
        return sum(end.is_client for end in self.ends)


async def main(port: str, host: str, broker_port: str) -> None:
    """Run until the input ends."""
    loop = asyncio.get_running_loop()
    proxy = Proxy(int(port), (host, int(broker_port)))
    await proxy.open()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    print("ready", flush=True)
    while line := await lines.readline():
        print(await proxy.obey(*line.decode().split()), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
