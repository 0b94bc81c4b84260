"""Messages as jobs: JSON with the body and the headers, as Symfony lays them out, and what is to be known of the job.

Beside these two stand the priority and the ttr that the job was put with, which beanstalkd tells of each job only
when it is asked; and how often the message was delivered before, as far as the server may forget it.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

from postbus.errors import describe
from postbus.text import ENCODING, JSON_ERRORS, UNREADABLE, read_body, read_headers, write_body
from postbus.transport import Outgoing
from postbus_beanstalkd.limits import MOST

MOST_ATTEMPTS = 1_000_000
"""A number above this is not taken for one of ours."""


class Content(Struct, gc=False):
    """What a job holds."""

    body: bytes
    headers: dict[str, str]
    problem: str | None = None
    """What could not be read, if anything; see `Delivery.problem`."""
    priority: int | None = None
    """What it was put with; None if it does not say so."""
    ttr: int | None = None
    attempts: int = 0
    """How often it was delivered until it became this job, that time included; 0 if it never was another one."""
    server: str = ""
    """Which process of beanstalkd has counted that time too, unless it has ended since."""


class _Job(Struct, gc=False, omit_defaults=True):
    body: str
    headers: dict[str, str]
    priority: int | None = None
    ttr: int | None = None
    attempts: int = 0
    server: str = ""


class _OddJob(Struct):
    body: Raw
    headers: Raw


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Job).decode


def write(message: Outgoing, priority: int, ttr: int) -> bytes:
    """Return the data of a job; raise ValueError or TypeError for a header that JSON has no form for."""
    return _encode(_Job(*write_body(message), priority, ttr))


def with_attempts(data: bytes, priority: int, ttr: int, attempts: int, server: str) -> bytes | None:
    """Return the data of the same job with another number of attempts; None if there is no place for it."""
    try:
        job = _decode(data)
    except JSON_ERRORS:
        return None
    return _encode(_Job(job.body, job.headers, priority, ttr, attempts, server))


def read(data: bytes) -> Content:
    """Return what a job holds, whoever has put it there."""
    try:
        job = _decode(data)
    except JSON_ERRORS:
        return _read_odd(data)
    body, headers = job.body.encode(), job.headers
    if ENCODING in headers:
        body = read_body(body, headers)
    priority, ttr = job.priority, job.ttr
    if priority is None or ttr is None or not (0 <= priority <= MOST and 0 < ttr <= MOST):
        priority = ttr = None
    attempts = job.attempts if 0 < job.attempts <= MOST_ATTEMPTS else 0
    return Content(body, headers, None, priority, ttr, attempts, job.server)


def _read_odd(data: bytes) -> Content:
    try:
        odd = msgspec.json.decode(data, type=_OddJob)
    except msgspec.DecodeError:
        return Content(data, {})  # It is no message of ours or Symfony's, but perhaps the user's serializer knows it.
    except JSON_ERRORS as error:
        return Content(data, {}, f"its JSON cannot be read: {describe(error)}")
    body, headers = bytes(odd.body), read_headers(bytes(odd.headers))
    if UNREADABLE in headers:
        return Content(data, {}, "its headers are no JSON object")
    if body[:1] == b'"':
        try:
            body = msgspec.json.decode(body, type=str).encode()
        except JSON_ERRORS as error:
            return Content(data, {}, f"its body cannot be read: {describe(error)}")
    return Content(read_body(body, headers), headers)
