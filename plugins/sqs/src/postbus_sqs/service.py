"""The service: its clients, and each request that goes to it, with what it raises in our own words."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from postbus.errors import ConnectionLost, TransportError
from postbus_sqs.errors import CREDENTIALS, GONE, names_of, translate
from postbus_sqs.options import REGION, Address, SqsOptions
from postbus_sqs.secrets import hide_credentials
from postbus_sqs.untyped import Config, Session, create_loader

logger = logging.getLogger("postbus")

Response = Mapping[str, Any]


class Service:
    """One queue of SQS, by a client of its own. Safe to use from any thread.

    There are two clients, as one that waits for messages must wait longer for an answer than any other.
    """

    def __init__(self, address: Address, options: SqsOptions) -> None:
        self._address = address
        self._options = options
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[float, Any] = {}
        self._url = address.url
        self._is_closed = False

    def __str__(self) -> str:
        return self._address.shown

    def call(self, operation: str, *, wait: int = 0, is_about_queue: bool = True, **arguments: object) -> Response:
        """Send a request and return the answer; once more if the queue was missing, and could be created."""
        try:
            return self._call(operation, wait, is_about_queue, arguments)
        except Exception as error:
            if is_about_queue and self._options.auto_setup and names_of(error) & GONE:
                self._url = None
                self.create()
                return self._attempt(lambda: self._call(operation, wait, is_about_queue, arguments))
            raise self._translated(error) from _shown(error)

    def create(self) -> None:
        """Create the queue, unless it is there."""
        if self.exists():
            return
        if self._options.account:
            raise TransportError(
                f"There is no {self}, and it cannot be created in account {self._options.account} from here. Create it "
                "there, or leave the account out."
            )
        attributes = {"FifoQueue": "true"} if self._options.is_fifo else {}
        self.call("create_queue", is_about_queue=False, QueueName=self._options.queue_name, Attributes=attributes)

    def exists(self) -> bool:
        """Say whether the queue is there."""
        try:
            self._find()
        except Exception as error:
            if names_of(error) & GONE:
                return False
            raise self._translated(error) from _shown(error)
        return True

    def close(self) -> None:
        """Let go of all connections; a request that is under way fails."""
        with self._lock:
            self._is_closed = True
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def _call(self, operation: str, wait: int, is_about_queue: bool, arguments: dict[str, object]) -> Response:
        if is_about_queue:
            arguments = {"QueueUrl": self._url or self._find(), **arguments}
        answer: Response = getattr(self._client(wait), operation)(**arguments)
        return answer

    def _find(self) -> str:
        """Return the URL of the queue, as the service tells it."""
        owner = {"QueueOwnerAWSAccountId": self._options.account} if self._options.account else {}
        answer = self._client(0).get_queue_url(QueueName=self._options.queue_name, **owner)
        self._url = url = str(answer["QueueUrl"])
        return url

    def _client(self, wait: int) -> Any:
        patience = self._options.read_timeout + (self._options.wait_time if wait else 0)
        client = self._clients.get(patience)
        if client is not None:
            return client
        with self._lock:  # A session is not to be used from several threads.
            if self._is_closed:
                raise ConnectionLost(f"The connection to {self} is closed")
            if patience not in self._clients:
                self._clients[patience] = self._make_client(patience)
            return self._clients[patience]

    def _make_client(self, patience: float) -> Any:
        options = self._options
        session = self._session = self._session or _make_session(options)
        config = Config(
            # A second attempt of its own could store a message twice, or hide one that nobody knows of.
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=options.timeout,
            read_timeout=patience,
            max_pool_connections=options.parallel + 4,
            parameter_validation=False,
            tcp_keepalive=True,
        )
        hide_credentials()
        region = options.region or session.get_config_variable("region") or REGION
        return session.create_client("sqs", region_name=region, endpoint_url=self._address.endpoint, config=config)

    def _attempt(self, work: Callable[[], Response]) -> Response:
        try:
            return work()
        except Exception as error:
            raise self._translated(error) from _shown(error)

    def _translated(self, error: Exception) -> TransportError:
        return translate(error, str(self))


def _make_session(options: SqsOptions) -> Any:
    session = Session(profile=options.profile)
    session.register_component("data_loader", _descriptions_in(session.get_config_variable("data_path")))
    if options.access_key:
        session.set_credentials(options.access_key, options.secret_key, options.session_token)
    return session


@cache
def _descriptions_in(folders: str | None) -> Any:
    """Return what reads the descriptions of AWS' services, once in a process: that is most of making a session."""
    return create_loader(folders)


def _shown(error: Exception) -> Exception | None:
    """Return an error as the cause of ours, unless it may repeat what was signed, of which a token is a part."""
    return None if names_of(error) & CREDENTIALS else error


def failed(answer: Response) -> Sequence[Mapping[str, Any]]:
    """Return the entries of a batch that the service did not do as it was told."""
    entries: Sequence[Mapping[str, Any]] = answer.get("Failed") or ()
    return entries
