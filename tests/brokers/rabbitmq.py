"""RabbitMQ: one server with plain and TLS listeners and a second virtual host, and one to break."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from tests.brokers.broker import Broker
from tests.brokers.certificates import Certificates
from tests.brokers.network import reserve_port
from tests.brokers.programs import missing
from tests.brokers.server import Server, wait_until

# Debian's commands in /usr/sbin change to the user rabbitmq and forget the environment; these do not.
FOLDERS = ("/usr/lib/rabbitmq/bin",)

# An Erlang that has nothing to do must leave the processor to the tests. One that spins instead is made to wait by
# the system on a busy machine: rabbitmqctl then takes half a minute for what else takes three seconds.
IDLE = "+sbwt none +sbwtdcpu none +sbwtdio none"


class Epmd(Server):
    """The register of Erlang's nodes: one for each RabbitMQ, so that none outlives the tests."""

    def __init__(self, program: str, user: str | None) -> None:
        super().__init__("epmd", user=user)
        self.port = reserve_port()
        self.prepare([program, "-port", str(self.port), "-address", "127.0.0.1"], self.answers)

    def answers(self) -> bool:
        """Tell whether it takes connections."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class RabbitMQServer(Server):
    """One node of RabbitMQ, with everything it writes in its own folder."""

    def __init__(self, program: str, epmd: Epmd, certificates: Certificates) -> None:
        super().__init__("rabbitmq", user=epmd.user)
        self.port, self.tls_port, self.management_port = reserve_port(), reserve_port(), reserve_port()
        # The server says on this socket, as to systemd, when it is up.
        notifications = self.folder / "notifications"
        self._news = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._news.bind(str(notifications))
        self._news.setblocking(False)
        self.give_to_user(notifications)

        settings = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "listeners.ssl.1": f"127.0.0.1:{self.tls_port}",
            "ssl_options.cacertfile": certificates.ca_file,
            "ssl_options.certfile": certificates.server_certificate,
            "ssl_options.keyfile": certificates.server_key,
            "ssl_options.verify": "verify_peer",
            "ssl_options.fail_if_no_peer_cert": "false",
            "management.tcp.ip": "127.0.0.1",
            "management.tcp.port": self.management_port,
            # How long it keeps a new connection to itself: milliseconds, and seconds.
            "collect_statistics_interval": 200,
            **{f"management.sample_retention_policies.{kind}.minute": 1 for kind in ("global", "basic", "detailed")},
            "disk_free_limit.absolute": "1MB",
        }
        config = self.folder / "rabbitmq.conf"
        config.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        plugins = self.folder / "enabled_plugins"
        plugins.write_text("[rabbitmq_management].")
        self.give_to_user(plugins)

        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "NOTIFY_SOCKET": str(notifications),
            "ERL_EPMD_PORT": str(epmd.port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "postbus@localhost",
            "RABBITMQ_DIST_PORT": str(reserve_port()),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-kernel inet_dist_use_interface {{127,0,0,1}} {IDLE}",
            "RABBITMQ_CTL_ERL_ARGS": IDLE,
        }
        self._control = str(Path(program).with_name("rabbitmqctl"))
        self.prepare([program], self.is_up, environment=environment)

    def launch(self, *arguments: str) -> None:
        self._up = False
        while self._hear():
            pass
        super().launch(*arguments)

    def is_up(self) -> bool:
        """Tell whether the server has said that it is up."""
        while not self._up and (news := self._hear()):
            self._up = b"READY=1" in news
        return self._up

    def stop(self) -> None:
        # At the end, the management plugin asks an application that is stopping about itself, and waits 5 s for
        # the answer. It does not once it has been told to let go.
        self.resume()
        with suppress(RuntimeError):  # A node that does not know itself yet stops all the same.
            self.control("eval", "gen_event:delete_handler(rabbit_event, rabbit_mgmt_db_handler, []).")
        super().stop()

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl, and return what it prints."""
        done = subprocess.run(
            [self._control, *arguments],
            env=self.environment,
            cwd=self.folder,
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout

    def _hear(self) -> bytes:
        try:
            return self._news.recv(4096)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        super().close()
        self._news.close()


class RabbitMQ(Broker, variant="rabbitmq"):
    """One server; the user guest, the virtual host /."""

    node: RabbitMQServer
    vhost: ClassVar[str] = "/"

    def launch(self) -> str:
        program = self.find("rabbitmq-server", package="rabbitmq-server", folders=FOLDERS)
        epmd = Epmd(
            self.find("epmd", package="erlang-base"),
            user="rabbitmq" if program.startswith(FOLDERS) else None,
        )
        self.servers.append(epmd)
        epmd.start()
        self.node = RabbitMQServer(program, epmd, self.brokers.certificates)
        self.servers.append(self.node)
        self.node.start()
        return f"amqp://guest:guest@127.0.0.1:{self.node.port}/%2f"

    @property
    def management_url(self) -> str:
        """Where the management plugin listens, for guest with the password guest."""
        if not self.given:
            return f"http://127.0.0.1:{self.node.management_port}"
        url = os.environ.get("POSTBUS_TEST_RABBITMQ_MANAGEMENT")
        if url is None:
            missing(f"{self.variable} is set. Set POSTBUS_TEST_RABBITMQ_MANAGEMENT too: http://localhost:15672")
        return url.rstrip("/")

    def exports(self) -> dict[str, str]:
        return super().exports() | {"POSTBUS_TEST_RABBITMQ_MANAGEMENT": self.management_url}

    def manage(self, method: str, path: str, body: object = None) -> Any:
        """Ask the management plugin for something below /api, and return its answer."""
        request = Request(
            f"{self.management_url}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {b64encode(b'guest:guest').decode()}"},
        )
        with urlopen(request, timeout=30) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def connections(self) -> list[dict[str, Any]]:
        """Return what the server knows about each of its connections; a new one is told after a moment."""
        return list(self.manage("GET", "connections"))

    def close_connections(self) -> int:
        """Force all connections closed from the management side, and return how many there were."""
        connections = self.connections()
        for connection in connections:
            with suppress(HTTPError):  # It may have gone by itself.
                self.manage("DELETE", f"connections/{quote(connection['name'], safe='')}")
        return len(connections)

    def delete_queue(self, name: str) -> None:
        """Delete a queue, whoever uses it."""
        self.manage("DELETE", f"queues/{quote(self.vhost, safe='')}/{quote(name, safe='')}")

    def sync(self) -> None:
        """Return when every queue that was declared is on the disk.

        RabbitMQ 3 confirms a declaration, and messages for the queue, moments before its database has written
        the decision. A server that is killed in between forgets the queue and all that is in it.
        """
        self.control("eval", "mnesia:sync_log().")

    def set_memory_alarm(self, on: bool) -> None:
        """Let the server block whoever publishes, as when its memory is short; or end that."""
        self._need_own()
        self.control("set_vm_memory_high_watermark", "0" if on else "0.6")
        wait_until(lambda: self._has_alarm() is on, f"The memory alarm does not go {'on' if on else 'off'}.")

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl, and return what it prints."""
        self._need_own()
        return self.node.control(*arguments)

    def _has_alarm(self) -> bool:
        try:
            self.manage("GET", "health/checks/local-alarms")
        except HTTPError as error:
            if error.code == 503:
                return True
            raise
        return False


class OwnRabbitMQ(RabbitMQ, variant="own_rabbitmq"):
    """One server to break."""

    own = True
    _alarmed = False

    def set_memory_alarm(self, on: bool) -> None:
        self._alarmed = True
        super().set_memory_alarm(on)
        self._alarmed = on

    def mend(self) -> None:
        super().mend()
        if self._alarmed:
            self.set_memory_alarm(False)


class _Shared(RabbitMQ):
    """Another way into the server of the variant `rabbitmq`."""

    def share(self) -> RabbitMQ:
        """Return that, and act on its servers from now on."""
        origin = self.brokers["rabbitmq"]
        assert isinstance(origin, RabbitMQ)
        if origin.given:
            missing(f"{origin.variable} is set, and {self.variable} is not. Set both, or neither.")
        self.servers = origin.servers
        self.node = origin.node
        return origin

    def close(self) -> None:
        """Leave the servers to the variant that they belong to."""


class RabbitMQTls(_Shared, variant="rabbitmq_tls"):
    """The same server, over TLS. It looks at a client's certificate if it is shown one."""

    @property
    def certificates(self) -> Certificates:
        """What a client needs."""
        return self.brokers.certificates

    def launch(self) -> str:
        self.share()
        return f"amqps://guest:guest@localhost:{self.node.tls_port}/%2f"


class RabbitMQVhost(_Shared, variant="rabbitmq_vhost"):
    """The same server: another virtual host, which belongs to another user."""

    user, password = "postbus", "p@ss/word"
    vhost = "post/bus"

    def launch(self) -> str:
        self.share()
        vhost, user, password = (quote(name, safe="") for name in (self.vhost, self.user, self.password))
        self.manage("PUT", f"vhosts/{vhost}")
        self.manage("PUT", f"users/{user}", {"password": self.password, "tags": ""})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self.manage("PUT", f"permissions/{vhost}/{user}", everything)
        return f"amqp://{user}:{password}@127.0.0.1:{self.node.port}/{vhost}"
