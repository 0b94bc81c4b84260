"""What a DSN means: the queue, where it is, and by which credentials it is reached."""

from __future__ import annotations

import pytest

from postbus.dsn import Dsn
from postbus.errors import DsnError
from postbus_sqs import FIFO, STANDARD, SqsOptions
from postbus_sqs.options import Address, address_of, group_of


def read(text: str, **options: object) -> tuple[SqsOptions, Address]:
    dsn = Dsn.parse(text).with_options(options)
    read = SqsOptions.from_dsn(dsn)
    return read, address_of(dsn, read)


@pytest.mark.parametrize(
    ("dsn", "queue", "account", "endpoint"),
    [
        ("sqs://default", "messages", None, None),
        ("sqs://default/orders", "orders", None, None),
        ("sqs://default/123456789012/orders", "orders", "123456789012", None),
        ("sqs://default/orders/", "orders", None, None),
        ("sqs://default?queue_name=orders&account=1", "orders", "1", None),
        ("sqs://default/orders?endpoint=http://localhost:4566", "orders", None, "http://localhost:4566"),
        ("sqs://localhost:9494/messages?sslmode=disable", "messages", None, "http://localhost:9494"),
        ("sqs://localhost:9494/orders", "orders", None, "https://localhost:9494"),
        ("sqs://[::1]:9494/orders?sslmode=disable", "orders", None, "http://[::1]:9494"),
        ("SQS://default/orders\n", "orders", None, None),
        ("sqs://sqs.eu-west-3.amazonaws.com/orders", "orders", None, "https://sqs.eu-west-3.amazonaws.com"),
        ("https://sqs.us-east-2.amazonaws.com/orders", "orders", None, "https://sqs.us-east-2.amazonaws.com"),
    ],
)
def test_a_dsn_names_a_queue(dsn, queue, account, endpoint):
    """Host, path and options say which; without a name, as in Symfony, it is messages."""
    options, address = read(dsn)

    assert (queue, account, endpoint) == (options.queue_name, options.account, address.endpoint)
    assert address.url is None


def test_the_url_of_a_queue_needs_no_question():
    """It says all: the region, the account, the queue; and the service need not be asked for it."""
    options, address = read(
        "https://sqs.eu-west-3.amazonaws.com/123456789012/messages"
        "?access_key=AKIAIOSFODNN7EXAMPLE&secret_key=j17M97ffSVoKI0briFoo9a"
    )

    assert "https://sqs.eu-west-3.amazonaws.com/123456789012/messages" == address.url
    assert ("eu-west-3", "123456789012", "messages") == (options.region, options.account, options.queue_name)
    assert ("AKIAIOSFODNN7EXAMPLE", "j17M97ffSVoKI0briFoo9a") == (options.access_key, options.secret_key)


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("sqs.eu-west-3.amazonaws.com", "eu-west-3"),
        ("sqs.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("sqs-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("eu-central-1.queue.amazonaws.com", "eu-central-1"),
        ("vpce-0a1b-c2.sqs.eu-west-1.vpce.amazonaws.com", "eu-west-1"),
    ],
)
def test_a_host_of_aws_names_its_region(host, region):
    """Whichever of its names it has."""
    assert region == read(f"https://{host}/123456789012/messages")[0].region


def test_a_dsn_as_in_symfony():
    """With credentials in the user part, a secret with slashes, a FIFO queue, a region and a wait."""
    options, address = read("sqs://ACCESS:SECRET%2Fwith%2Fslashes@default/messages.fifo?region=eu-west-1&wait_time=20")

    assert ("ACCESS", "SECRET/with/slashes") == (options.access_key, options.secret_key)
    assert ("messages.fifo", "eu-west-1", 20) == (options.queue_name, options.region, options.wait_time)
    assert options.is_fifo
    assert address.endpoint is None


def test_options_win_over_the_query_and_that_over_the_path():
    """As for every transport."""
    options, _ = read("sqs://a:b@default/path?queue_name=query&access_key=c&secret_key=d", queue_name="option")

    assert ("option", "c", "d") == (options.queue_name, options.access_key, options.secret_key)
    assert "query" == read("sqs://default/path?queue_name=query")[0].queue_name


def test_options_of_symfony_are_taken():
    """All of them, with their units; what means nothing here says so."""
    dsn = Dsn.parse(
        "sqs://default/messages?buffer_size=9&wait_time=5&poll_timeout=0.1&visibility_timeout=30&auto_setup=false"
        "&access_key=a&secret_key=b&session_token=c&endpoint=https://localhost&region=eu-west-3&queue_name=q"
        "&account=213&debug=true"
    )
    options = SqsOptions.from_dsn(dsn)

    assert (9, 5, 30, False) == (
        options.buffer_size,
        options.wait_time,
        options.visibility_timeout,
        options.auto_setup,
    )
    assert ["poll_timeout", "debug"] == SqsOptions.without_effect(dsn)


@pytest.mark.parametrize(
    ("dsn", "told"),
    [
        ("sqs://", "names no queue"),
        ("sqs://a,b/q", "takes one host"),
        ("sqs://default/1/2/3", "is /queue or /account/queue"),
        ("sqs://default//q", "is /queue or /account/queue"),
        ("sqs://default/q.q", "SQS has no queue"),
        ("sqs://default/" + "q" * 81, "SQS has no queue"),
        ("sqs://default/q?sslmode=disable", "AWS is always reached over TLS"),
        ("sqs://h/q?sslmode=off", "must be one of 'disable'"),
        ("sqs://default/q?wait_time=21", "at most 20"),
        ("sqs://default/q?buffer_size=11", "at most 10"),
        ("sqs://default/q?visibility_timeout=1.5", "an int"),
        ("sqs://default/q?acess_key=a", "Did you mean 'access_key'?"),
        ("sqs://default/q?access_key=a", "go together"),
        ("sqs://user@default/q", "go together"),
        ("sqs://default/q?session_token=a", "goes together with"),
        ("sqs://a:b@default/q?profile=c", "exclude each other"),
        ("sqs://default/q?group=a%20b", "is no message group"),
        ("https://example.com/1/q", "For another service write sqs://"),
        ("https://sqs.evil.com/1/q", "For another service write sqs://"),
    ],
)
def test_a_dsn_that_means_nothing_is_refused(dsn, told):
    """In a sentence, with what to write instead."""
    with pytest.raises(DsnError, match=told):
        read(dsn)


@pytest.mark.parametrize("dsn", ["sqs://AKIA/b:sec/ret@", "sqs://AKIA:sec/ret@default/q", "sqs://AKIA:s+ec@default/q"])
def test_a_secret_that_is_not_encoded_is_not_shown(dsn):
    """It is refused, because nobody knows where it ends."""
    with pytest.raises(DsnError) as caught:
        read(dsn)

    assert "percent-encode" in str(caught.value)
    assert "sec" not in str(caught.value).replace("secret", "")


def test_the_kind_of_queue_decides_what_is_promised(make_transport):
    """A FIFO queue has groups, and keeps a message back for longer."""
    assert STANDARD == make_transport("sqs://localhost:1").guarantees
    assert FIFO == make_transport("sqs://localhost:1", queue_name="q.fifo").guarantees


def test_any_text_makes_a_group():
    """One that SQS takes is the group itself; another one has a digest, the same each time and of its own."""
    texts = ["order-1", "a b", "", "ä", "x" * 129, "a\ud800"]
    groups = [group_of(text) for text in texts]

    assert "order-1" == groups[0]
    assert groups == [group_of(group) for group in groups]
    assert len(texts) == len(set(groups))
