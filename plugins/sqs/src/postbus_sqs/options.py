"""The options of a DSN, and what its host, user part and path say."""

from __future__ import annotations

import hashlib
import re
from typing import Literal, Self

from msgspec import Struct

from postbus.dsn import Dsn, Options, option
from postbus.errors import DsnError
from postbus_sqs.limits import BATCH, LONGEST_LEASE, LONGEST_WAIT

REGION = "eu-west-1"
"""Where the queue is if neither the DSN nor the environment says so, as in Symfony."""

_OF_AWS = re.compile(
    r"(?:[\w-]+\.)?sqs(?:-fips)?\.([a-z0-9-]+)(?:\.vpce)?\.amazonaws\.com(?:\.cn)?"
    r"|([a-z0-9-]+)\.queue\.amazonaws\.com(?:\.cn)?"
)


class SqsOptions(Options):
    """What every DSN of this plugin takes."""

    queue_name: str = option("messages", "Queue that holds the messages.")
    account: str | None = option(None, "Account that owns the queue, if it is another one.")
    region: str | None = option(None, f"Region of the queue; if none is given, the environment's, or {REGION}.")
    endpoint: str | None = option(None, "URL of the service, in place of that of AWS.")
    sslmode: Literal["disable"] | None = option(None, "With 'disable', a host of the DSN is reached without TLS.")
    access_key: str | None = option(None, "Access key; without one, botocore looks where it always does.")
    secret_key: str | None = option(None, "Secret of the access key.")
    session_token: str | None = option(None, "Token of temporary credentials.")
    profile: str | None = option(None, "Profile of the AWS configuration files to take credentials and region from.")
    auto_setup: bool = option(True, "Create the queue when it turns out to be missing.")
    buffer_size: int = option(
        BATCH, "How many messages one request fetches at most. Symfony's own default is 9.", minimum=1, maximum=BATCH
    )
    parallel: int = option(10, "How many requests are under way at a time, at most.", minimum=1, maximum=100)
    wait_time: int = option(
        LONGEST_WAIT, "How long a request waits for messages, at most.", unit="seconds", minimum=0, maximum=LONGEST_WAIT
    )
    visibility_timeout: int = option(
        60,
        "A message in flight for longer, and not kept alive, is delivered again.",
        unit="seconds",
        minimum=1,
        maximum=LONGEST_LEASE,
    )
    group: str | None = option(
        None, "Message group of messages that name none; on a FIFO queue each is a group of its own otherwise."
    )
    timeout: float = option(5, "How long connecting may take.", unit="seconds", minimum=0.1)
    read_timeout: float = option(
        5, "How long an answer may take beyond what it waits for.", unit="seconds", minimum=0.1
    )
    poll_timeout: float = option(0.1, "A worker says for how long it waits.", unit="seconds", no_effect=True)
    debug: bool = option(False, "Belongs to Symfony's client.", no_effect=True)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo", self.queue_name):
            raise DsnError(
                f"SQS has no queue {self.queue_name!r}: a name has up to 80 letters, digits, '-' and '_'; that of a "
                "FIFO queue ends with '.fifo'."
            )
        if self.group is not None and not is_group(self.group):
            raise DsnError(f"Option 'group' of sqs:// is no message group: {NO_GROUP}.")

    @classmethod
    def from_dsn(cls, dsn: Dsn, **positional: object) -> Self:
        return super().from_dsn(dsn, **{**_positional(dsn), **positional})

    @property
    def is_fifo(self) -> bool:
        """Whether the queue keeps the order of its groups."""
        return self.queue_name.endswith(".fifo")


NO_GROUP = "it has up to 128 letters, digits and signs of ASCII, without a space"


def is_group(name: str) -> bool:
    """Say whether SQS takes a text as the name of a group, or as an id for deduplication."""
    return re.fullmatch(r"[!-~]{1,128}", name) is not None


def group_of(key: str) -> str:
    """Return the message group for any text: the text itself, if it is the name of one, or else a digest of it."""
    return key if is_group(key) else hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


class Address(Struct, frozen=True):
    """Where the service is, and the URL of the queue where the DSN is one."""

    endpoint: str | None
    url: str | None
    shown: str


def address_of(dsn: Dsn, options: SqsOptions) -> Address:
    """Return where a DSN leads; raise `DsnError` if it leads nowhere, or if it cannot be told as whom to go there."""
    _refuse_half_of_credentials(options)
    shown = f"queue {options.queue_name!r} at {options.endpoint or _authority(dsn) or 'AWS'}"
    if dsn.scheme == "https":
        if _region_of(dsn) is None:
            raise DsnError(
                "https:// is for the URL of a queue of AWS. For another service write sqs://host:port/messages."
            )
        is_url = not {"queue_name", "account", "endpoint"} & set(dsn.options) and options.account is not None
        url = f"https://{_authority(dsn)}/{options.account}/{options.queue_name}" if is_url else None
        return Address(options.endpoint or f"https://{_authority(dsn)}", url, shown)
    if not dsn.hosts and not dsn.options:
        raise DsnError("sqs:// names no queue. Write sqs://default/messages for AWS, or sqs://host:port/messages.")
    if not _names_host(dsn):
        if options.sslmode:
            raise DsnError("Option 'sslmode' of sqs:// is for a host of your own. AWS is always reached over TLS.")
        return Address(options.endpoint, None, shown)
    scheme = "http" if options.sslmode == "disable" else "https"
    return Address(options.endpoint or f"{scheme}://{_authority(dsn)}", None, shown)


def _refuse_half_of_credentials(options: SqsOptions) -> None:
    if bool(options.access_key) != bool(options.secret_key):
        raise DsnError("Options 'access_key' and 'secret_key' of sqs:// go together. Give both, or neither.")
    if options.session_token and not options.access_key:
        raise DsnError("Option 'session_token' of sqs:// goes together with 'access_key' and 'secret_key'.")
    if options.access_key and options.profile:
        raise DsnError("Options 'access_key' and 'profile' of sqs:// exclude each other.")


def _positional(dsn: Dsn) -> dict[str, object]:
    """Return what is said without a name: ``sqs://access_key:secret_key@host/account/queue_name``."""
    if len(dsn.hosts) > 1:
        raise DsnError(f"{dsn.scheme}:// takes one host: a queue is in one region.")
    said: dict[str, object] = {"region": _region_of(dsn)}
    if dsn.user or dsn.password:
        said |= {"access_key": dsn.user, "secret_key": dsn.password}
    names = [*dsn.segments]
    if names and not names[-1]:
        names.pop()
    if len(names) > 2 or "" in names:
        raise DsnError(f"The path of {dsn.scheme}:// is /queue or /account/queue.")
    return said | dict(zip(("queue_name", "account"), reversed(names), strict=False))


def _names_host(dsn: Dsn) -> bool:
    return dsn.host not in (None, "default")


def _authority(dsn: Dsn) -> str:
    return str(dsn.hosts[0]) if _names_host(dsn) else ""


def _region_of(dsn: Dsn) -> str | None:
    match = _OF_AWS.fullmatch(dsn.host or "")
    return None if match is None else match[1] or match[2]
