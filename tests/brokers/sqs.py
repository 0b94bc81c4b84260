"""SQS, by two doubles of it, because each is wrong somewhere else: ElasticMQ, and moto."""

from __future__ import annotations

import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.brokers.broker import Broker
from tests.brokers.maven import jars, java
from tests.brokers.network import reserve_port
from tests.brokers.programs import missing
from tests.brokers.server import Server, wait_until

ELASTICMQ = "org.elasticmq:elasticmq-server_2.13:1.7.1"
REGION = "us-east-1"

# What is stored must survive the server, as it does at AWS: so in a file of H2, which it brings. A busy machine takes
# its time for an answer, which would be 503 after twenty seconds.
_CONFIGURATION = """\
include classpath("application.conf")
pekko.http.server.request-timeout = 90s
node-address {{ protocol = http, host = 127.0.0.1, port = {port}, context-path = "" }}
rest-sqs {{ enabled = true, bind-port = {port}, bind-hostname = "127.0.0.1", sqs-limits = strict }}
rest-stats {{ enabled = false, bind-port = 0, bind-hostname = "127.0.0.1" }}
generate-node-address = false
queues {{ }}
messages-storage {{ enabled = {stores}, uri = "jdbc:h2:./messages;WRITE_DELAY=0" }}
queues-storage {{ enabled = {stores}, path = "./queues.conf" }}
aws {{ region = {region}, accountId = 000000000000 }}
"""
_LOGGING = "<configuration><root level='OFF'/></configuration>"


class Sqs(Broker):
    """A server that speaks the protocol of SQS."""

    def client(self) -> Any:
        """Return a client of boto3, as another program has one."""
        import boto3
        from botocore.config import Config

        address = urlsplit(self.dsn)
        return boto3.client(
            "sqs",
            endpoint_url=f"http://{address.hostname}:{address.port}",
            region_name=REGION,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            config=Config(retries={"total_max_attempts": 1, "mode": "standard"}),
        )

    def queue_dsn(self, queue: str, **options: object) -> str:
        """Return the DSN of a queue."""
        query = "&".join(f"{name}={value}" for name, value in {"sslmode": "disable", **options}.items())
        address = urlsplit(self.dsn)
        return f"sqs://key:secret@{address.hostname}:{address.port}/{queue}?region={REGION}&{query}"

    def exports(self) -> dict[str, str]:
        return {self.variable: self.dsn}


class ElasticMq(Sqs, variant="elasticmq"):
    """ElasticMQ: as strict as AWS about limits, and fast; in memory."""

    stores = False

    def launch(self) -> str:
        program, path = java(), jars("elasticmq", ELASTICMQ)
        port = reserve_port()
        server = Server(f"{self.variant}-{port}")
        self.servers.append(server)
        stores = "true" if self.stores else "false"
        (server.folder / "elasticmq.conf").write_text(_CONFIGURATION.format(port=port, stores=stores, region=REGION))
        (server.folder / "logback.xml").write_text(_LOGGING)
        options = "-Xms32m -Xmx160m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xss512k -XX:-UsePerfData".split()
        files = ["-Dconfig.file=elasticmq.conf", "-Dlogback.configurationFile=logback.xml"]
        server.prepare([program, *options, *files, "-cp", path, "org.elasticmq.server.Main"], lambda: answers(port))
        server.start()
        return f"sqs://127.0.0.1:{port}"


class OwnElasticMq(ElasticMq, variant="own_elasticmq"):
    """ElasticMQ to break, which has its messages on disk."""

    own = True
    stores = True

    def stop(self) -> None:
        self._let_it_write()
        super().stop()

    def kill(self) -> None:
        self._let_it_write()
        super().kill()

    def _let_it_write(self) -> None:
        """Wait until all that it has answered is stored: it writes a moment afterwards, and AWS before."""
        file = self.servers[0].folder / "messages.mv.db"
        wait_until(lambda: not file.exists() or time.time() - file.stat().st_mtime > 2, "It does not stop writing.")


class Moto(Sqs, variant="moto"):
    """moto's server: close to AWS in what it calls an error."""

    def launch(self) -> str:
        program = Path(sys.executable).with_name("moto_server")
        if not program.exists():
            missing(f"moto is not installed. Install it: pip install moto flask flask-cors (or set {self.variable})")
        port = reserve_port()
        server = Server(f"{self.variant}-{port}")
        self.servers.append(server)
        server.prepare([str(program), "-H", "127.0.0.1", "-p", str(port)], lambda: answers(port))
        server.start()
        return f"sqs://127.0.0.1:{port}"


def answers(port: int) -> bool:
    """Tell whether it answers a request, which the first time takes a while."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/", "Action=ListQueues&Version=2012-11-05", kind)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
