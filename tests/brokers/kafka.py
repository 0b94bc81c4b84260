"""Apache Kafka, from Maven Central's jars: one broker in three ways of reaching it, one to break, and a cluster."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
from base64 import urlsafe_b64encode
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote
from uuid import uuid4

import pytest

from tests.brokers import maven
from tests.brokers.broker import Broker
from tests.brokers.certificates import Certificates
from tests.brokers.network import Partition, reserve_port
from tests.brokers.programs import missing
from tests.brokers.server import Server, wait_until

VERSION = "4.2.0"
JARS = (
    f"org.apache.kafka:kafka_2.13:{VERSION}",
    f"org.apache.kafka:kafka-tools:{VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3",
    "org.apache.logging.log4j:log4j-core:2.24.3",
)

USER, PASSWORD = "postbus", "p@ss/word"
"""Who may come in by SASL, with any of its mechanisms."""

# Several of them run at once beside the tests, so each is small, and starts before its code is fully compiled.
LEAN = (
    *("-Xms64m", "-Xmx256m", "-Xss512k", "-XX:MaxDirectMemorySize=64m"),
    *("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Djava.awt.headless=true"),
)
LOGGING = """\
rootLogger.level=WARN
rootLogger.appenderRef.0.ref=C
appender.0.type=Console
appender.0.name=C
appender.0.layout.type=PatternLayout
appender.0.layout.pattern=%d %p %c %m%n
"""
PATIENCE = 200
"""Seconds that the first start may take, before Java has its classes as it had loaded them, on a busy machine."""

CLUSTER_ID = "UG9zdGJ1cy10ZXN0cy1ubw"


def as_properties(settings: Mapping[str, object]) -> str:
    """Return the text of a file of settings, as Java reads it."""
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def jars() -> str:
    """Return the class path of the broker."""
    return maven.jars("kafka", *JARS)


def make_id() -> str:
    """Return a new identifier in Kafka's form."""
    return urlsafe_b64encode(uuid4().bytes).rstrip(b"=").decode()


class KafkaServer(Server):
    """One process that is broker and controller. Everybody may come in plainly; SASL wants a user and a password."""

    NETWORKS = ("NETWORK_1", "NETWORK_2")
    """Listeners of which each may have a network before it."""
    LISTENERS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL", *NETWORKS, "CONTROLLER")

    def __init__(
        self,
        variant: str,
        number: int,
        controllers: list[int],
        certificates: Certificates,
        session: int,
        classes: Callable[[], Sequence[str]],
    ) -> None:
        """``classes`` returns the options of Java that say where classes are which it has loaded once, or are to be."""
        self.number = number
        self._session = session
        self.ports = {name: reserve_port() for name in self.LISTENERS}
        self.ports["CONTROLLER"] = controllers[number - 1]
        self.network_ports = {name: reserve_port() for name in self.NETWORKS}
        """Where its clients find it through a network that may be cut: it tells them its address itself."""
        super().__init__(f"{variant}-{self.port}")
        self._java = maven.java()
        self._jars = jars()
        logging = self.folder / "log4j2.properties"
        logging.write_text(LOGGING)
        config = self.folder / "server.properties"
        config.write_text(as_properties(self._settings(controllers, certificates)))
        # All that Kafka's own program would make of a folder to be the broker's, at the price of one more Java.
        (self.folder / "data").mkdir()
        identity = {"version": 1, "cluster.id": CLUSTER_ID, "node.id": number, "directory.id": make_id()}
        (self.folder / "data" / "meta.properties").write_text(as_properties(identity))
        self._classes = classes
        options = (*LEAN, f"-Dlog4j2.configurationFile=file:{logging}")
        self._arguments = [*options, "-cp", self._jars, "kafka.Kafka", str(config)]
        self.prepare([self._java, *self._arguments], self.answers)

    def launch(self, *arguments: str) -> None:
        """As ever, with the classes that there are by now."""
        self.command = [self._java, *self._classes(), *self._arguments]
        super().launch(*arguments)

    @property
    def port(self) -> int:
        """Where it is reached without TLS and password."""
        return self.ports["PLAINTEXT"]

    @property
    def address(self) -> str:
        """Host and port of the same."""
        return f"127.0.0.1:{self.port}"

    def _settings(self, controllers: list[int], certificates: Certificates) -> dict[str, object]:
        replicas = len(controllers)
        addresses = {name: f"{name}://127.0.0.1:{port}" for name, port in self.ports.items()}
        advertised = addresses | {
            "SSL": f"SSL://localhost:{self.ports['SSL']}",
            "SASL_SSL": f"SASL_SSL://localhost:{self.ports['SASL_SSL']}",
        }
        advertised |= {name: f"{name}://127.0.0.1:{port}" for name, port in self.network_ports.items()}
        del advertised["CONTROLLER"]
        settings: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": self.number,
            "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{port}" for n, port in enumerate(controllers, 1)),
            "listeners": ",".join(addresses.values()),
            "advertised.listeners": ",".join(advertised.values()),
            "listener.security.protocol.map": ",".join(
                f"{name}:{'PLAINTEXT' if name in (*self.NETWORKS, 'CONTROLLER') else name}" for name in self.LISTENERS
            ),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": self.folder / "data",
            # A topic that nobody has set up is not there.
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": min(replicas, 2),
            "num.network.threads": 2,
            "num.io.threads": 2,
            "background.threads": 2,
            # A test is not to wait for what spares a large cluster work; and a group has one member at first.
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 500,
            # A broker that was killed may come back as soon as the controllers have forgotten it. One that gets no
            # turn for so long on a busy machine is forgotten as well.
            "broker.session.timeout.ms": self._session,
            "broker.heartbeat.interval.ms": 200,
            "log.retention.check.interval.ms": 1000,
            "log.segment.delete.delay.ms": 1000,
            # The cleaner takes its buffer, 128 MiB unless told, from the heap.
            "log.cleaner.threads": 1,
            "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
            "log.cleaner.io.buffer.size": 64 * 1024,
            "log.cleaner.backoff.ms": 200,
        }
        for topic in "offsets.topic", "transaction.state.log", "share.coordinator.state.topic":
            settings |= {f"{topic}.replication.factor": replicas, f"{topic}.num.partitions": 1}
        for topic in "transaction.state.log", "share.coordinator.state.topic":
            settings[f"{topic}.min.isr"] = min(replicas, 2)
        return settings | self._tls(certificates) | self._sasl()

    def _tls(self, certificates: Certificates) -> dict[str, object]:
        # One file in the PEM format holds the key, as PKCS#8, and the chain.
        key = subprocess.run(
            ["openssl", "pkcs8", "-topk8", "-nocrypt", "-in", str(certificates.server_key)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        store = self.folder / "server.pem"
        store.write_text(key + certificates.server_certificate.read_text())
        return {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": store,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": certificates.ca_file,
            "ssl.client.auth": "requested",
        }

    def _sasl(self) -> dict[str, object]:
        common = "org.apache.kafka.common.security"
        settings: dict[str, object] = {"sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"}
        for listener in "sasl_plaintext", "sasl_ssl":
            jaas = f"listener.name.{listener}.{{}}.sasl.jaas.config"
            plain = f'{common}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
            settings[jaas.format("plain")] = plain
            for hashed in "scram-sha-256", "scram-sha-512":
                settings[jaas.format(hashed)] = f"{common}.scram.ScramLoginModule required;"
        return settings

    def run_tool(self, tool: str, *arguments: str, text: str = "") -> str:
        """Run one of Kafka's own programs, by the name of its class, and return what it prints."""
        command = [self._java, *LEAN, f"-Dlog4j2.configurationFile=file:{self.folder / 'log4j2.properties'}"]
        done = subprocess.run(
            [*command, "-cp", self._jars, tool, *arguments], input=text, capture_output=True, text=True, timeout=100
        )
        if done.returncode:
            raise RuntimeError(f"{tool} {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout

    def answers(self) -> bool:
        """Tell whether it serves clients, and says so itself."""
        return self.number in self.known()

    def known(self) -> set[int]:
        """Return the numbers of the brokers that serve clients, as far as this one knows; none if it does not."""
        from kafka.errors import KafkaError

        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) != 0:
                return set()
        try:
            with admin_of(self.address, bootstrap_timeout_ms=1000, request_timeout_ms=1000) as admin:
                return {broker["broker_id"] for broker in admin.describe_cluster()["brokers"]}
        except KafkaError:
            return set()


@contextmanager
def admin_of(addresses: str, **options: Any) -> Generator[Any]:
    """Give an admin client of kafka-python; one that finds no broker leaves a thread of its network, which ends too."""
    from kafka import KafkaAdminClient
    from kafka.net.compat import KafkaNetClient

    with ExitStack() as stack:

        def make_network(**configs: Any) -> Any:
            return stack.enter_context(closing(KafkaNetClient(**configs)))

        admin = KafkaAdminClient(bootstrap_servers=addresses.split(","), kafka_client=make_network, **options)
        stack.callback(admin.close)
        yield admin


ASKED_FOR = "POSTBUS_TEST_KAFKA"
"""The variable that has the tests of Kafka run: they take a quarter of the time of all others together."""

THOROUGHLY = "POSTBUS_TEST_KAFKA_THOROUGHLY"

thorough = pytest.mark.skipif(
    os.environ.get(THOROUGHLY) != "1", reason=f"Takes long for what it adds; {THOROUGHLY}=1 asks for it."
)
"""A mark for a test that says again, in another way, what a shorter one says."""


CLIENT = re.compile(r"^kafka-io-|-network-thread$|\(kafka\b")
"""What is in the names of threads of kafka-python, and of the plugin."""


class Kafka(Broker):
    """One or several brokers of Kafka."""

    heavy = True

    @classmethod
    def clients(cls) -> list[str]:
        return [thread.name for thread in threading.enumerate() if CLIENT.search(thread.name)]

    servers: list[KafkaServer]  # type: ignore[assignment]

    @property
    def addresses(self) -> str:
        """Where it is reached, as Kafka's own programs are told; without TLS and password."""
        if self.given:
            return self.dsn.partition("://")[2].rpartition("@")[2].partition("/")[0]
        return ",".join(server.address for server in self.servers)

    @contextmanager
    def admin(self) -> Generator[Any]:
        """Give an admin client of kafka-python, which may do everything."""
        with admin_of(self.addresses) as admin:
            yield admin

    def run_tool(self, tool: str, *arguments: str, text: str = "") -> str:
        """Run one of Kafka's own programs, by the name of its class, and return what it prints."""
        if not self.servers:
            missing(f"{self.variable} gives the broker, and Kafka's own programs are not here.")
        return self.servers[0].run_tool(tool, *arguments, text=text)

    def create_topic(self, name: str, partitions: int = 1, **configs: object) -> None:
        """Create a topic; a setting is written as ``cleanup_policy="compact"``."""
        settings = {key.replace("_", "."): str(value) for key, value in configs.items()}
        with self.admin() as admin:
            admin.create_topics({name: {"num_partitions": partitions, "replication_factor": -1, "configs": settings}})

    def delete_topic(self, name: str) -> None:
        """Delete a topic, whoever uses it, and return when it is gone."""
        with self.admin() as admin:
            admin.delete_topics([name])
            wait_until(lambda: name not in admin.list_topics(), f"The topic {name} does not go.")

    def launch_servers(self, number: int) -> None:
        """Start so many brokers, which form a cluster."""
        if os.environ.get(ASKED_FOR) != "1":
            pytest.skip(f"Kafka takes long, so it is only where {ASKED_FOR}=1 asks for it.")
        certificates = self.brokers.certificates  # Before the thread that loads classes wants them.
        archive = maven.archive(maven.java(), jars(), self._write_classes)

        def classes() -> list[str]:
            return [f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []

        controllers = [reserve_port() for _ in range(number)]
        session = 2000 if self.own else 5000
        for n in range(1, number + 1):
            server = KafkaServer(self.variant, n, controllers, certificates, session, classes)
            self.servers.append(server)
        self.start_all()

    def _write_classes(self, path: Path) -> None:
        """Run a broker that writes down which classes it has loaded, when it ends."""
        classes = [f"-XX:ArchiveClassesAtExit={path}"]
        certificates = self.brokers.certificates
        with closing(KafkaServer("classes", 1, [reserve_port()], certificates, 5000, lambda: classes)) as server:
            server.launch()
            server.wait_until_ready(100)
            server.stop(100)

    def start_all(self) -> None:
        """Start those that do not run: at once, since none answers before most have found each other."""
        for server in self.servers:
            if not server.running:
                server.launch()
        for server in self.servers:
            server.wait_until_ready(PATIENCE)
        everyone = {server.number for server in self.servers}
        wait_until(
            lambda: all(server.known() == everyone for server in self.servers), "The brokers do not form a cluster."
        )


class KafkaPlain(Kafka, variant="kafka_plain", variable="POSTBUS_TEST_KAFKA_DSN"):
    """One broker, open to everybody."""

    def launch(self) -> str:
        self.launch_servers(1)
        return f"kafka://{self.servers[0].address}"


class OwnKafka(Kafka, variant="own_kafka"):
    """One broker to break."""

    own = True

    def launch(self) -> str:
        self._networks: set[str] = set()
        self.launch_servers(1)
        return f"kafka://{self.servers[0].address}"

    @contextmanager
    def partition(self) -> Generator[Partition]:
        (server,) = self.servers
        # A client is told by the broker where it is: at the port of this network, if it came through it.
        name = next(name for name in server.NETWORKS if name not in self._networks)
        port, at = server.ports[name], server.network_ports[name]
        self._networks.add(name)
        try:
            with Partition(f"kafka://127.0.0.1:{port}", "127.0.0.1", port, at=at) as partition:
                yield partition
        finally:
            self._networks.remove(name)


class KafkaCluster(Kafka, variant="kafka_cluster"):
    """Three brokers, of which one may be away: each topic is on all of them, and two must have a record."""

    own = True

    def launch(self) -> str:
        self.launch_servers(3)
        return f"kafka://{self.addresses}"

    def start(self) -> None:
        self.start_all()

    def mend(self) -> None:
        for server in self.servers:
            server.resume()
        self.start_all()


class _Shared(Kafka):
    """Another way into the broker of the variant `kafka_plain`."""

    part_of = "kafka_plain"

    def share(self) -> KafkaServer:
        """Return that, and act on it from now on."""
        origin = self.brokers[self.part_of]
        assert isinstance(origin, KafkaPlain)
        if origin.given:
            missing(f"{origin.variable} is set, and {self.variable} is not. Set both, or neither.")
        self.servers = origin.servers
        return origin.servers[0]

    def close(self) -> None:
        """Leave the broker to the variant that it belongs to."""


class KafkaTls(_Shared, variant="kafka_tls"):
    """The same broker, over TLS. It looks at a client's certificate if it is shown one."""

    @property
    def certificates(self) -> Certificates:
        """What a client needs."""
        return self.brokers.certificates

    def launch(self) -> str:
        return f"kafkas://localhost:{self.share().ports['SSL']}"


class KafkaSasl(_Shared, variant="kafka_sasl"):
    """The same broker, with a user and a password: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."""

    user, password = USER, PASSWORD
    mechanisms: ClassVar[tuple[str, ...]] = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

    def launch(self) -> str:
        from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

        with admin_of(self.share().address) as admin:
            for mechanism in ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512:
                user = UserScramCredentialUpsertion(self.user, mechanism, self.password, iterations=4096)
                admin.alter_user_scram_credentials([user])
        return f"kafka://{self.user}:{quote(self.password, safe='')}@127.0.0.1:{self.share().ports['SASL_PLAINTEXT']}"

    @property
    def tls_dsn(self) -> str:
        """The same over TLS."""
        server = self.share()
        return f"kafkas://{self.user}:{quote(self.password, safe='')}@localhost:{server.ports['SASL_SSL']}"
