"""Whatever others put into the folder, a worker goes on."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postbus.text import UNREADABLE, UNREADABLE_ENCODING
from postbus_filesystem.files import MARK
from tests.strangers import BODIES, DEEP, HEADER_NAMES, KINDS, WORDS, Came, batches, came, hurt_nobody, thorough


class File(NamedTuple):
    """What a stranger wrote, and what is to come of it."""

    content: bytes
    body: bytes
    headers: dict[str, str]


def with_headers(headers: dict[str, str], body: bytes) -> File:
    """Return a file that README.md describes."""
    return File(MARK + json.dumps(headers).encode() + b"\n" + body, body, headers)


def without_headers(content: bytes) -> File:
    """Return a file of which nothing is known."""
    return File(content, content, {})


def unreadable(head: bytes) -> File:
    """Return a file whose first line is not what it says that it is; that line is kept in a header, as it came."""
    try:
        headers = {UNREADABLE: head.decode()}
    except UnicodeDecodeError:
        headers = {UNREADABLE: b64encode(head).decode(), UNREADABLE_ENCODING: "base64"}
    return File(MARK + head + b"\nbody", b"body", headers)


HEADS = [b"", b"{", b"[1]", b"7", b'{"\xff": "x"}', b'{"half": "\\udfff"}', DEEP.encode()]
FILES = st.one_of(
    BODIES.filter(lambda body: not body.startswith(MARK)).map(without_headers),
    st.builds(with_headers, st.dictionaries(HEADER_NAMES, WORDS, max_size=4), BODIES),
    st.builds(lambda kind, body: with_headers({"type": kind}, body), KINDS, BODIES),
    st.sampled_from(HEADS).map(unreadable),
)


@pytest.mark.slow
@pytest.mark.once
@thorough
@given(batches(FILES))
def test_what_strangers_write_hurts_nobody(files: list[File]) -> None:
    """All good messages are handled, and all others are in the failure transport, as they came."""
    with TemporaryDirectory() as folder:
        queue = Path(folder, "queue")

        def put(file: File) -> Came:
            draft = queue / "writing" / token_hex(8)
            draft.write_bytes(file.content)
            draft.rename(queue / "waiting" / f"{time.time_ns():020}-{token_hex(8)}.0")
            return came(file.body, file.headers)

        hurt_nobody(f"filesystem://{queue}?fsync=false&poll_interval=0.01", files, put)
