"""Whatever is put into a queue in memory, a worker goes on."""

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postbus.dsn import Dsn
from postbus.serialization import JsonSerializer, TypeRegistry
from postbus.transport import Outgoing, TransportContext
from postbus_in_memory import GUARANTEES, make_transport
from tests.strangers import BODIES, KINDS, TEXT_HEADERS, Came, batches, came, hurt_nobody, thorough

MESSAGES = st.builds(
    lambda body, headers, kind: Outgoing(body, headers if kind is None else {**headers, "type": kind}),
    BODIES,
    TEXT_HEADERS,
    st.none() | KINDS,
)


@pytest.mark.slow
@pytest.mark.once
@thorough
@given(batches(MESSAGES))
def test_what_strangers_send_hurts_nobody(messages: list[Outgoing]) -> None:
    """All good messages are handled, and all others are in the failure transport, as they came."""
    dsn = f"in-memory://{uuid4().hex}"
    context = TransportContext("test", JsonSerializer(TypeRegistry()), lambda envelope: envelope, GUARANTEES)
    connection = make_transport(Dsn.parse(dsn), context).connection

    def put(message: Outgoing) -> Came:
        connection.publish([message])
        return came(message.body, message.headers)

    hurt_nobody(dsn, messages, put)
