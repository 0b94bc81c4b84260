"""ActiveMQ, of Debian's package, over STOMP: one broker, by TLS too, one that delays nothing, and one to break."""

from __future__ import annotations

import socket
import subprocess
from typing import ClassVar
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from tests.brokers import maven
from tests.brokers.broker import Broker
from tests.brokers.certificates import Certificates
from tests.brokers.network import reserve_port
from tests.brokers.programs import missing
from tests.brokers.server import Server

PACKAGE = "activemq"
LIBRARIES = "/usr/share/activemq/lib/*:/usr/share/activemq/lib/optional/*"

USER, PASSWORD = "postbus", r"p@ss:w\rd/"
"""Who may come in; nobody else, and only with what STOMP escapes elsewhere and not when one logs in."""

PRIORITIZED = "prioritized"
"""What the names of queues begin with in which ActiveMQ heeds priorities; it does in no other."""

# Several brokers run at once beside the tests, so each is small, and starts before its code is fully compiled.
LEAN = "-Xms64m -Xmx256m -Xss512k -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData".split()

_SETTINGS = """\
<beans xmlns="http://www.springframework.org/schema/beans" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
    xsi:schemaLocation="http://www.springframework.org/schema/beans
        http://www.springframework.org/schema/beans/spring-beans-2.0.xsd
        http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="postbus" dataDirectory="data"
      useJmx="false" schedulerSupport="{scheduler}">
    <destinationPolicy><policyMap><policyEntries>
      <policyEntry queue="{prioritized}.>" prioritizedMessages="true"/>
    </policyEntries></policyMap></destinationPolicy>
    <persistenceAdapter><kahaDB directory="data/kahadb" journalMaxFileLength="8mb"/></persistenceAdapter>
    <plugins><simpleAuthenticationPlugin><users>
      <authenticationUser username={user} password={password} groups="users"/>
    </users></simpleAuthenticationPlugin></plugins>
    <sslContext><sslContext keyStore="file:server.p12" keyStorePassword="changeit"/></sslContext>
    <systemUsage><systemUsage>
      <memoryUsage><memoryUsage limit="128 mb"/></memoryUsage>
      <storeUsage><storeUsage limit="1 gb"/></storeUsage>
      <tempUsage><tempUsage limit="256 mb"/></tempUsage>
      <jobSchedulerUsage><jobSchedulerUsage limit="256 mb"/></jobSchedulerUsage>
    </systemUsage></systemUsage>
    <transportConnectors>
      <transportConnector name="stomp" uri="stomp://127.0.0.1:{port}"/>
      <transportConnector name="stomps" uri="stomp+ssl://127.0.0.1:{tls_port}"/>
    </transportConnectors>
  </broker>
</beans>
"""


class ActiveMqServer(Server):
    """One broker of ActiveMQ, with everything it writes in its own folder."""

    def __init__(self, variant: str, certificates: Certificates, *, scheduler: bool) -> None:
        self.port, self.tls_port = reserve_port(), reserve_port()
        super().__init__(f"{variant}-{self.port}")
        settings = _SETTINGS.format(
            user=quoteattr(USER),
            password=quoteattr(PASSWORD),
            prioritized=PRIORITIZED,
            scheduler=str(scheduler).lower(),
            port=self.port,
            tls_port=self.tls_port,
        )
        (self.folder / "activemq.xml").write_text(settings)
        keys = ["-inkey", str(certificates.server_key), "-in", str(certificates.server_certificate)]
        store = ["-out", str(self.folder / "server.p12"), "-passout", "pass:changeit"]
        subprocess.run(["openssl", "pkcs12", "-export", *keys, *store], check=True, capture_output=True)
        folders = [f"-Dactivemq.{name}={self.folder}" for name in ("home", "base", "data")]
        main = ["org.apache.activemq.console.command.ShellCommand", "start", "xbean:file:activemq.xml"]
        self.prepare([maven.java(), *LEAN, *folders, "-cp", LIBRARIES, *main], self.answers)

    def answers(self) -> bool:
        """Tell whether it lets clients in."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
                login = f"accept-version:1.2\nhost:127.0.0.1\nlogin:{USER}\npasscode:{PASSWORD}"
                probe.sendall(f"CONNECT\n{login}\n\n\0".encode())
                return probe.recv(4096).startswith(b"CONNECTED")
        except OSError:
            return False


class ActiveMq(Broker, variant="activemq"):
    """One broker, which lets one user in."""

    server: ActiveMqServer
    scheduler: ClassVar[bool] = True

    def launch(self) -> str:
        self.find("activemq", package=PACKAGE)
        self.server = ActiveMqServer(self.variant, self.brokers.certificates, scheduler=self.scheduler)
        self.servers.append(self.server)
        self.server.start()
        return f"stomp://{quote(USER)}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.server.port}"


class OwnActiveMq(ActiveMq, variant="own_activemq"):
    """One broker to break."""

    own = True


class ActiveMqWithoutScheduler(ActiveMq, variant="activemq_without_scheduler"):
    """One broker that delays nothing, as ActiveMQ comes."""

    scheduler = False


class ActiveMqTls(ActiveMq, variant="activemq_tls"):
    """The broker of the variant `activemq`, over TLS."""

    @property
    def certificates(self) -> Certificates:
        """What a client needs."""
        return self.brokers.certificates

    def launch(self) -> str:
        origin = self.brokers["activemq"]
        assert isinstance(origin, ActiveMq)
        if origin.given:
            missing(f"{origin.variable} is set, and {self.variable} is not. Set both, or neither.")
        self.servers, self.server = origin.servers, origin.server
        return f"stomps://{quote(USER)}:{quote(PASSWORD, safe='')}@localhost:{self.server.tls_port}"

    def close(self) -> None:
        """Leave the server to the variant that it belongs to."""
