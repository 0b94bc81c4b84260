"""What a broker of the tests is, and of which version."""

from __future__ import annotations

import platform
import sqlite3
from importlib.metadata import version
from typing import Any

from tests.brokers import kafka, sqs
from tests.brokers.broker import Broker


def version_of(broker: Broker) -> str:
    """Return the name and the version, as the broker tells it; nothing, if it is no server."""
    asked: Any = broker
    match broker.kind():
        case "beanstalkd":
            with asked.client() as client:
                return f"beanstalkd {client.stats()['version']}"
        case "kafka":
            return f"Apache Kafka {kafka.VERSION}"
        case "mariadb":
            return f"MariaDB {_select(asked, 'SELECT VERSION()').partition('-')[0]}"
        case "postgresql":
            return f"PostgreSQL {_select(asked, 'SHOW server_version').partition(' ')[0]}"
        case "rabbitmq":
            return f"RabbitMQ {asked.manage('GET', 'overview')['rabbitmq_version']}"
        case "redis":
            with asked.client() as client:
                told = client.info("server")
            return f"Valkey {told['valkey_version']}" if "valkey_version" in told else f"Redis {told['redis_version']}"
        case "sqs" if broker.variant == "moto":
            return f"moto {version('moto')}"
        case "sqs":
            return f"ElasticMQ {sqs.ELASTICMQ.rpartition(':')[2]}"
        case _:
            return ""


def version_without_broker(package: str) -> str:
    """Return what the plugin in a folder is tested with where no server is asked for."""
    match package:
        case "sql":
            return f"SQLite {sqlite3.sqlite_version}"
        case "filesystem":
            return f"a folder, on {platform.system()}"
        case _:
            return "the memory of one process"


def _select(broker: Any, query: str) -> str:
    with broker.connect() as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return str(cursor.fetchone()[0])
