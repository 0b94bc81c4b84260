"""What a DSN means, and what it may not say."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from postbus.dsn import Dsn
from postbus.errors import DsnError
from postbus.plugins import Plugin, Plugins
from postbus_amqp import CLASSIC, QUORUM, WITH_PRIORITIES, AmqpOptions, guarantees_for
from postbus_amqp.options import DelayOptions, ExchangeOptions, QueueOptions, Settings


def read(dsn, **options):
    return Settings(Dsn.parse(dsn).with_options(options))


@pytest.mark.parametrize(
    ("dsn", "user", "address", "vhost", "exchange", "queues"),
    [
        (
            "amqp://guest:guest@localhost:5672/%2f/messages",
            ("guest", "guest"),
            ("localhost", 5672),
            "/",
            "messages",
            ["messages"],
        ),
        ("amqp://", ("guest", "guest"), ("localhost", 5672), "/", "messages", ["messages"]),
        ("amqp://h", ("guest", "guest"), ("h", 5672), "/", "messages", ["messages"]),
        ("amqps://guest:guest@localhost/%2f/messages", ("guest", "guest"), ("localhost", 5671), "/", "messages", None),
        ("amqp://u%40:p%3A@h/a%2fb/ex%2Fz", ("u@", "p:"), ("h", 5672), "a/b", "ex/z", ["ex/z"]),
        ("amqp://[::1]:5673/v/e", ("guest", "guest"), ("::1", 5673), "v", "e", ["e"]),
        ("AMQP://h/%2f/e", ("guest", "guest"), ("h", 5672), "/", "e", ["e"]),
        ("amqp://h/%2f/e?exchange[name]=zz", ("guest", "guest"), ("h", 5672), "/", "zz", ["e"]),
        ("amqp://h/%2f/e?host=i&port=1&vhost=w&login=me&password=you", ("me", "you"), ("i", 1), "w", "e", ["e"]),
        ("amqps://localhost?cacert=/etc/ssl/certs/", None, ("localhost", 5671), "/", "messages", ["messages"]),
        ("amqps://localhost?cacert=/etc/ssl/certs/&port=12345", None, ("localhost", 12345), "/", "messages", None),
    ],
)
def test_a_dsn_says_where_the_broker_is_and_what_is_on_it(dsn, user, address, vhost, exchange, queues):
    """User, host, port, virtual host, exchange and queue are read as Symfony reads them, or from the options."""
    settings = read(dsn)

    assert user in (None, (settings.options.user, settings.options.password))
    assert ([address], vhost, exchange) == (settings.addresses, settings.options.vhost, settings.exchange_name)
    assert (queues or [exchange]) == list(settings.queues)


def test_several_hosts_are_tried_in_turn():
    """The nodes of a cluster are all named in one DSN; the port of one need not be the others'."""
    assert [("a", 5672), ("b", 1), ("c", 5672)] == read("amqp://a,b:1,c/%2f/e").addresses


@pytest.mark.parametrize("dsn", ["amqp://h/", "amqp://h//ex"])
def test_an_empty_virtual_host_is_the_default_one_with_a_warning(dsn, caplog):
    """Nobody means the virtual host whose name is empty, so the log says how to write the default one."""
    with caplog.at_level(logging.WARNING):
        settings = read(dsn)

    assert "/" == settings.options.vhost
    assert "Write it as %2f" in caplog.text


def test_a_path_with_more_parts_is_refused():
    """A slash too many would be a part of a name that nobody uses."""
    with pytest.raises(DsnError, match="percent-encode|Percent-encode"):
        read("amqp://h/v/e/more")


def test_nested_options_are_read():
    """A topic exchange with a queue that is bound by two keys, as a DSN of Symfony's writes it."""
    settings = read(
        "amqp://localhost/%2f/messages?queues[fast][binding_keys][0]=a&queues[fast][binding_keys][1]=b"
        "&exchange[type]=topic&exchange[name]=jobs"
    )

    assert ("jobs", "topic") == (settings.exchange_name, settings.exchange.type)
    assert {"fast": ("a", "b")} == {name: queue.binding_keys for name, queue in settings.queues.items()}


@pytest.mark.parametrize("value", [None, "", {}, []])
def test_a_queue_without_options_has_the_defaults(value):
    """What is not a mapping says nothing about the queue, but that there is one."""
    settings = read("amqp://localhost", queues={"a": value})

    assert [("",)] == [queue.binding_keys for queue in settings.queues.values()]


@pytest.mark.parametrize("value", [[], {}])
def test_no_queues_is_for_who_only_publishes(value):
    """An empty list, as in YAML, is no queue at all, and not the one that there is by default."""
    assert {} == read("amqp://localhost", queues=value).queues


def test_arguments_that_must_be_numbers_are_made_so():
    """A DSN can only write text, and the broker would refuse it."""
    settings = read(
        "amqp://h/%2f/e?queues[q][arguments][x-max-priority]=9&queues[q][arguments][x-single-active-consumer]=true"
        "&queues[q][arguments][x-queue-version]=2&queues[q][arguments][x-queue-type]=classic"
        "&exchange[arguments][alternate-exchange]=other"
    )

    assert {
        "x-max-priority": 9,
        "x-single-active-consumer": True,
        "x-queue-version": 2,
        "x-queue-type": "classic",
    } == settings.queues["q"].arguments
    assert {"alternate-exchange": "other"} == settings.exchange.arguments


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("exchnge[name]=a", "Did you mean 'exchange'?"),
        ("exchange[tpye]=direct", "exchange: Unknown option 'tpye' for amqp://. Did you mean 'type'?"),
        (
            "queues[a][binding_key][]=x",
            "queues[a]: Unknown option 'binding_key' for amqp://. Did you mean 'binding_keys'?",
        ),
        ("delay[exchange]=d", "delay: Unknown option 'exchange' for amqp://. Did you mean 'exchange_name'?"),
        ("exchange[bindings][src][keys][]=a", "exchange[bindings][src]: Unknown option 'keys'"),
        ("queues[a][arguments][x-max-length]=many", "Argument 'x-max-length' in queues[a][arguments]"),
        ("queues[a][arguments][x-single-active-consumer]=si", "must be a bool, got 'si'"),
        ("queues=a", "Option 'queues' of amqp:// must be"),
        ("port=0", "at least 1, got 0"),
        ("port=70000", "at most 65535"),
        ("heartbeat=-1", "at least 0"),
        ("auto_setup=maybe", "Option 'auto_setup' of amqp:// must be"),
        ("prefetch_count=0", "at least 1"),
        ("frame_max=100", "Option 'frame_max' of amqp:// must be 0, or at least 4096, got 100."),
        ("cacert=/etc/ssl/certs", "Option 'cacert' of amqp:// encrypts nothing. Write amqps://, or leave it out."),
        ("sasl_method=2", "at most 1"),
    ],
)
def test_a_wrong_option_is_refused(query, told):
    """The error says where it is, and what is wanted; a typo gets the nearest name, in nested options too."""
    with pytest.raises(DsnError) as caught:
        read(f"amqp://localhost/%2f/e?{query}")

    assert told in str(caught.value)


def test_every_mistake_in_nested_options_is_told():
    """So that all can be mended at once."""
    with pytest.raises(DsnError) as caught:
        read("amqp://h/%2f/e?exchange[nmae]=a&exchange[tpye]=b")

    assert 2 == len(caught.value.problems)


def test_what_belongs_to_php_alone_is_accepted_without_effect():
    """An existing DSN can be taken over as it is, and it can be told what in it means nothing here."""
    dsn = Dsn.parse("amqp://localhost?persistent=true&read_timeout=0.5&write_timeout=1&retry=x&confirm_timeout=3")

    Settings(dsn)

    assert {"persistent", "read_timeout", "write_timeout", "retry"} == set(AmqpOptions.without_effect(dsn))


@pytest.mark.parametrize(
    ("arguments", "promised"),
    [({}, CLASSIC), ({"x-max-priority": 5}, WITH_PRIORITIES), ({"x-queue-type": "quorum"}, QUORUM)],
)
def test_what_is_promised_goes_by_the_queues(arguments, promised):
    """Only quorum queues count deliveries; only queues with priorities have such."""
    assert promised == guarantees_for(read("amqp://h", queues={"q": {"arguments": arguments}}))


@pytest.mark.parametrize(
    ("place", "options"), [("exchange", ExchangeOptions), ("queues[NAME]", QueueOptions), ("delay", DelayOptions)]
)
def test_the_readme_has_each_nested_option(place, options):
    """With its default, where that is no matter of course."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    rows = {row.split("`")[1]: row.split("|")[2].strip(" `") for row in readme.splitlines() if row.startswith("| `")}

    for info in options.describe():
        written = next(row for name, row in rows.items() if name.split("[SOURCE]")[0] == f"{place}[{info.name}]")
        assert written == str(info.default) or not info.default or info.name == "binding_keys"


@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_each_scheme_is_registered_with_its_options(scheme):
    """A DSN of each scheme finds its factory, its options and its guarantees."""
    plugins = Plugins()
    plugins.add(sys.modules["postbus_amqp"], Plugin("amqp", "postbus-amqp", "test"))

    registered = plugins.scheme_for(Dsn.parse(f"{scheme}://"))

    assert (AmqpOptions, CLASSIC) == (registered.options, registered.guarantees)


@pytest.mark.slow
def test_importing_the_plugin_imports_no_client():
    """The client library is loaded when a transport is made."""
    program = "import sys, postbus_amqp; print('pika' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)

    assert "False" == done.stdout.strip()
