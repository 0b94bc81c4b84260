"""What is sent: in batches by number and size, answered one by one; and what AWS is told of each."""

from __future__ import annotations

import math

import pytest

from postbus.errors import MessageRefused, TransportError
from postbus.transport import Outgoing
from postbus_sqs.stamps import SqsDeduplication, SqsGroup

pytestmark = [pytest.mark.slow, pytest.mark.once]

KIB = 1024


def receive_all(client, queue):
    """Return all messages, with all that the service tells of them."""
    url = client.get_queue_url(QueueName=queue)["QueueUrl"]
    found = []
    while messages := client.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=10,
        WaitTimeSeconds=1,
        MessageSystemAttributeNames=["All"],
        MessageAttributeNames=["All"],
    ).get("Messages"):
        found += messages
    return found


def test_large_messages_are_sent_in_smaller_batches(connect, client, queue):
    """Ten together may not be larger than one alone may be."""
    connection = connect()

    ids = connection.publish([Outgoing(b"%02d" % number * 150 * KIB, {}) for number in range(11)])

    assert sorted(ids) == sorted(message["MessageId"] for message in receive_all(client, queue))


def test_the_largest_message_is_taken(connect, client, queue):
    """One more byte, and it is refused, alone."""
    connection = connect()
    largest = Outgoing(b"x" * (KIB * KIB), {})

    with pytest.raises(MessageRefused, match="takes messages of up to 1048576 bytes") as caught:
        connection.publish([Outgoing(b"x" * (KIB * KIB + 1), {}), largest, Outgoing(b"small", {})])

    assert ([0], [1, 2]) == (list(caught.value.refused), sorted(caught.value.stored))


def test_what_the_service_refuses_is_refused_alone(connect, client, queue):
    """Whether it says so of one message or of the whole request: all others are stored, and told so."""
    connection = connect()
    messages = [Outgoing(b"%d" % number, {}) for number in range(12)]
    messages[3] = Outgoing(b"3", {}, -1)
    messages[5] = Outgoing(b"5", {}, math.nan)
    messages[7] = Outgoing(b"7", {}, stamps=(SqsDeduplication("a"),))

    with pytest.raises(MessageRefused) as caught:
        connection.publish(messages)

    assert {5, 7} == caught.value.refused.keys()
    bodies = {int(message["Body"]) for message in receive_all(client, queue)}
    assert {*range(12)} - {5, 7} == bodies == {*caught.value.stored}


def test_a_request_that_is_refused_as_a_whole_is_sent_message_by_message(connect, client, queue):
    """One attribute that the service does not take costs its neighbours nothing."""
    connection = connect()
    bad = Outgoing(b"bad", {})
    write = connection._publisher._write

    def write_badly(message):
        written = write(message)
        if message is bad:
            written.entry["MessageAttributes"] = {"a b": {"DataType": "none", "StringValue": "x"}}
        return written

    connection._publisher._write = write_badly
    with pytest.raises(MessageRefused, match="refuses a message") as caught:
        connection.publish([Outgoing(b"before", {}), bad, Outgoing(b"after", {})])

    assert ([1], [0, 2]) == (list(caught.value.refused), sorted(caught.value.stored))
    assert {"before", "after"} == {message["Body"] for message in receive_all(client, queue)}


def test_a_standard_queue_is_fair_to_groups(connect, client, queue):
    """The group is told to the service, comes back with the message, and is no key there."""
    connection = connect(group="others")
    connection.publish([Outgoing(b"a", {}, stamps=(SqsGroup("tenant-1"),)), Outgoing(b"b", {})])

    deliveries = []
    while len(deliveries) < 2:
        deliveries += connection.fetch(2, 5)
    connection.release([delivery.tag for delivery in deliveries])

    groups = {message["Body"]: message["Attributes"].get("MessageGroupId") for message in receive_all(client, queue)}
    assert {"a": "tenant-1", "b": "others"} == groups
    assert {b"a": SqsGroup("tenant-1"), b"b": SqsGroup("others")} == {one.body: one.stamps[0] for one in deliveries}
    assert {None} == {delivery.group for delivery in deliveries}


def test_delays_are_rounded_up(connect, client, queue):
    """SQS knows whole seconds, and no message is early."""
    connection = connect()
    connection.publish([Outgoing(b"later", {}, 899.1)])

    counts = connection.count()
    assert (0, 1) == (counts.waiting, counts.delayed)


def test_a_queue_of_another_account_is_not_created(connect):
    """It is to be created there."""
    connection = connect(account="123123123123")

    with pytest.raises(TransportError, match="cannot be created in account 123123123123"):
        connection.publish([Outgoing(b"a", {})])


def test_without_auto_setup_a_missing_queue_is_an_error(connect):
    """Which says what to do; and with it, `check` says that it will be made."""
    connection = connect(auto_setup=False)

    for work in (lambda: connection.publish([Outgoing(b"a", {})]), lambda: connection.fetch(1, 1), connection.count):
        with pytest.raises(TransportError, match="Create it with postbus setup"):
            work()
    assert ["There is no"] == [sentence[:11] for sentence in connection.missing()]


def test_a_queue_that_was_deleted_is_created_again(connect, client, queue):
    """While somebody waits for messages too."""
    connection = connect()
    connection.publish([Outgoing(b"a", {})])
    client.delete_queue(QueueUrl=client.get_queue_url(QueueName=queue)["QueueUrl"])

    connection.publish([Outgoing(b"b", {})])

    [delivery] = connection.fetch(1, 5)
    assert b"b" == delivery.body


@pytest.mark.parametrize(("most", "is_named"), [(3, True), (24, True), (25, False)])
def test_a_redrive_policy_that_swallows_is_named(connect, client, queue, most, is_named):
    """It takes away what no handler has failed at; a policy that does so late is a net."""
    connection = connect()
    connection.setup()
    other = client.create_queue(QueueName=f"{queue}-dead")["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=other, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    client.set_queue_attributes(
        QueueUrl=client.get_queue_url(QueueName=queue)["QueueUrl"],
        Attributes={"RedrivePolicy": f'{{"deadLetterTargetArn": "{arn}", "maxReceiveCount": "{most}"}}'},
    )

    missing = connection.missing()

    assert is_named == bool(missing)
    assert all(f"'{queue}-dead'" in sentence and f"received {most} times" in sentence for sentence in missing)
