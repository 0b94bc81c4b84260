"""What is said when the service refuses, and where the credentials come from."""

from __future__ import annotations

import json
import logging
import socket
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from postbus.errors import ConnectionLost, MessageRefused, TransportError
from postbus.transport import Outgoing
from tests.brokers.network import reserve_port
from tests.brokers.sqs import Moto

pytestmark = [pytest.mark.slow, pytest.mark.once]

MESSAGE = Outgoing(b"message", {})


class Ear(ThreadingHTTPServer):
    """A service that has a queue and refuses all else, and notes by which key and for which region it was asked."""

    answer = 400, '{"__type": "com.amazonaws.sqs#AccessDenied", "message": "no"}'

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        super().__init__(("127.0.0.1", reserve_port()), Mouth)


class Mouth(BaseHTTPRequestHandler):
    server: Ear

    def do_POST(self) -> None:
        key, _, region, *_ = self.headers["Authorization"].partition("Credential=")[2].split("/")
        self.server.heard.append((key, region))
        self.rfile.read(int(self.headers["Content-Length"]))
        status, text = self.server.answer
        if self.headers["X-Amz-Target"].endswith("GetQueueUrl"):
            status, text = 200, json.dumps({"QueueUrl": f"http://127.0.0.1:{self.server.server_port}/1/q"})
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def ear() -> Iterator[Ear]:
    """Return a service that hears who asks."""
    with Ear() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def ask(ear, connect_to):
    """Return what asks that service with these options, and returns the error."""

    def ask(**options: object) -> TransportError:
        keys = {} if "access_key" in options else {"access_key": None, "secret_key": None}
        with pytest.raises(TransportError) as caught:
            connect_to(f"sqs://127.0.0.1:{ear.server_port}", **keys, **options).publish([MESSAGE])
        return caught.value

    return ask


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch, tmp_path):
    """Let nothing of this machine be found."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def test_credentials_of_the_dsn(ask, ear):
    """They win over all others."""
    ask(access_key="AKDSN", secret_key="secret")

    assert {("AKDSN", "us-east-1")} == set(ear.heard)


def test_credentials_of_the_environment(ask, ear, monkeypatch):
    """And its region, if the DSN has none."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")

    ask(region=None)

    assert {("AKENV", "eu-north-1")} == set(ear.heard)


def test_credentials_of_a_profile(ask, ear, tmp_path):
    """Which the DSN names; where nobody names a region, it is Symfony's."""
    (tmp_path / "credentials").write_text("[work]\naws_access_key_id = AKPROFILE\naws_secret_access_key = secret\n")

    ask(profile="work", region=None)

    assert {("AKPROFILE", "eu-west-1")} == set(ear.heard)


def test_credentials_of_a_role(ask, ear, tmp_path, moto: Moto, monkeypatch):
    """Which a profile assumes."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto.dsn.replace("sqs://", "http://"))
    (tmp_path / "credentials").write_text("[base]\naws_access_key_id = AKBASE\naws_secret_access_key = secret\n")
    (tmp_path / "config").write_text(
        "[profile role]\nrole_arn = arn:aws:iam::123456789012:role/worker\nsource_profile = base\nregion = us-east-1\n"
    )

    ask(profile="role")

    [(key, region)] = set(ear.heard)
    assert ("ASIA", "us-east-1") == (key[:4], region)


def test_no_credentials_at_all(ask):
    """It says where they can be."""
    assert "Put them in the DSN, in the environment, or in a profile" in str(ask())


def test_a_profile_that_is_not_there(ask):
    """It is an error of the transport, not of the connection."""
    error = ask(profile="missing")

    assert "ProfileNotFound" in str(error)
    assert not isinstance(error, ConnectionLost)


@pytest.mark.parametrize(
    ("status", "kind", "told", "error"),
    [
        (400, "com.amazonaws.sqs#AccessDenied", "denies a permission: SendMessageBatch", TransportError),
        (403, "com.amazon.coral.service#AccessDeniedException", "denies a permission", TransportError),
        (403, "InvalidClientTokenId", "refuses the credentials: InvalidClientTokenId", TransportError),
        (403, "SignatureDoesNotMatch", "refuses the credentials", TransportError),
        (400, "ExpiredToken", "refuses the credentials", TransportError),
        (400, "ThrottlingException", "does not work at the moment", ConnectionLost),
        (400, "com.amazonaws.sqs#OverLimit", "does not work at the moment", ConnectionLost),
        (503, "ServiceUnavailable", "does not work at the moment", ConnectionLost),
        (500, "Whatever", "does not work at the moment", ConnectionLost),
        (400, "com.amazonaws.sqs#KmsDisabled", "refuses SendMessageBatch", TransportError),
        (400, "com.amazonaws.sqs#InvalidMessageContents", "refuses a message", MessageRefused),
    ],
)
def test_what_the_service_says_is_told(ask, ear, status, kind, told, error):
    """What is to be mended by somebody ends a worker; what mends itself is waited for."""
    ear.answer = status, f'{{"__type": "{kind}", "message": "canonical: s3cret-token"}}'

    caught = ask(access_key="AK", secret_key="s3cret", session_token="s3cret-token", queue_name="q")

    assert told in str(caught)
    assert error is type(caught)
    if "credentials" in told:
        assert "s3cret" not in "".join(traceback.format_exception(caught))


def test_who_is_no_sqs_is_told(ask, ear):
    """Somebody else may listen there."""
    ear.answer = 200, "<html>"

    assert isinstance(ask(access_key="AK", secret_key="s"), TransportError)


def test_nothing_secret_is_in_the_log(ask, caplog):
    """boto3 logs the headers of every request at DEBUG, and with them the key and the token."""
    caplog.set_level(logging.DEBUG)

    ask(access_key="AKS3CRET", secret_key="s3cret-key", session_token="s3cret-token")

    assert "Making request for" in caplog.text
    assert not any(secret in caplog.text for secret in ("AKS3CRET", "s3cret-key", "s3cret-token"))


def test_a_server_without_tls_is_told(connect_to):
    """The option is named that is missing."""
    with socket.create_server(("127.0.0.1", reserve_port())) as server:

        def talk() -> None:
            client, _ = server.accept()
            with client:
                client.recv(1000)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=talk, daemon=True).start()
        with pytest.raises(TransportError, match="sslmode=disable"):
            connect_to(f"sqs://127.0.0.1:{server.getsockname()[1]}", sslmode=None).publish([MESSAGE])
