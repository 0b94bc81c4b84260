"""What a DSN means, and what it may not say."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from postbus.dsn import Dsn
from postbus.errors import DsnError
from postbus.plugins import Plugin, Plugins
from postbus.serialization import JsonSerializer, TypeRegistry
from postbus.transport import TransportContext
from postbus_beanstalkd import GUARANTEES, BeanstalkdOptions, make_transport
from postbus_beanstalkd.options import Address, address_of


def options_of(dsn: str, **configured: object) -> BeanstalkdOptions:
    return BeanstalkdOptions.from_dsn(Dsn.parse(dsn).with_options(configured))


def make(dsn: str):
    context = TransportContext("test", JsonSerializer(TypeRegistry()), lambda envelope: envelope, GUARANTEES)
    return make_transport(Dsn.parse(dsn), context)


@pytest.mark.parametrize(
    ("dsn", "expected", "shown"),
    [
        ("beanstalkd://localhost", Address("localhost", 11300), "localhost:11300"),
        ("beanstalkd://localhost:11301/", Address("localhost", 11301), "localhost:11301"),
        ("BEANSTALKD://[::1]", Address("::1", 11300), "[::1]:11300"),
        ("beanstalkd://[::1]:11301?ttr=60", Address("::1", 11301), "[::1]:11301"),
        ("beanstalkd:///run/beanstalkd.sock", Address("", 0, "/run/beanstalkd.sock"), "/run/beanstalkd.sock"),
    ],
)
def test_a_dsn_leads_to_a_server(dsn, expected, shown):
    """A host, or a Unix socket."""
    assert expected == address_of(Dsn.parse(dsn))
    assert shown == str(expected)


@pytest.mark.parametrize(
    ("dsn", "problem"),
    [
        ("beanstalkd://", "names no server. Write beanstalkd://localhost:11300."),
        ("beanstalkd:///", "names no server"),
        ("beanstalkd://one,two", "several servers, which know nothing of each other"),
        ("beanstalkd://localhost?tube_name=", "holds an empty name of a tube"),
        ("beanstalkd://localhost?tube_name=-orders", "'-orders', which is no name of a tube"),
        ("beanstalkd://localhost?tube_name=two%20words", "which is no name of a tube"),
        ("beanstalkd://localhost?tube_name=a%0D%0Adelete%201", "which is no name of a tube"),
        ("beanstalkd://localhost?tube_name=orders%0A", "which is no name of a tube"),
        ("beanstalkd://localhost?tube_name=gr%C3%BC%C3%9Fe", "which is no name of a tube"),
        (f"beanstalkd://localhost?tube_name={'a' * 201}", "which is no name of a tube"),
        ("beanstalkd://localhost?tubes[]=a&tubes[]=b%0D", "Option 'tubes' of beanstalkd:// holds 'b\\r'"),
        ("beanstalkd://localhost?tubes[]=a&tubes[]=a", "names a tube twice"),
        ("beanstalkd://localhost?ttr=1", "Option 'ttr' of beanstalkd:// must be at least 2, got 1"),
        ("beanstalkd://localhost?ttr=1.5", "Option 'ttr' of beanstalkd:// must be an int"),
        ("beanstalkd://localhost?ttr=abc", "Option 'ttr' of beanstalkd:// must be an int"),
        ("beanstalkd://localhost?timeout=-1", "Option 'timeout' of beanstalkd:// must be at least 0"),
        ("beanstalkd://localhost?priority=4294967296", "must be at most 4294967295"),
        ("beanstalkd://localhost?tube=orders", "Unknown option 'tube' for beanstalkd://. Did you mean 'tubes'?"),
    ],
)
def test_what_a_dsn_may_not_say(dsn, problem):
    """It is refused when the transport is made, before anything is connected to."""
    with pytest.raises(DsnError) as caught:
        make(dsn)

    assert problem in str(caught.value)


def test_no_tubes_at_all_are_refused():
    """An empty list is a mistake of the configuration's."""
    with pytest.raises(DsnError, match="'tubes' of beanstalkd:// is empty"):
        options_of("beanstalkd://localhost", tubes=[])


def test_every_option_of_symfonys_is_read():
    """A DSN of Symfony's is taken over as it is; its timeout is said to have no effect."""
    dsn = "beanstalkd://localhost:11300?tube_name=foo&timeout=4&ttr=120"

    options = options_of(dsn)

    assert ("foo", ("foo",), 120, 4) == (options.tube_name, options.consumed, options.ttr, options.timeout)
    assert ["timeout"] == BeanstalkdOptions.without_effect(Dsn.parse(dsn))
    assert False is options_of("beanstalkd://localhost").bury_on_reject
    assert True is options_of("beanstalkd://localhost?bury_on_reject=true").bury_on_reject


def test_what_is_not_said_is_as_symfony_has_it():
    """The tube is ``default``, the ttr a minute and a half, the priority that of its jobs."""
    options = options_of("beanstalkd://localhost")

    assert ("default", ("default",), 90, 1024) == (
        options.tube_name,
        options.consumed,
        options.ttr,
        options.priority,
    )


def test_options_of_the_configuration_win():
    """As for every transport."""
    options = options_of("beanstalkd://localhost?tube_name=a&ttr=60", tube_name="b", tubes=["b", "c"], ttr="2m")

    assert ("b", ("b", "c"), 120) == (options.tube_name, options.consumed, options.ttr)


@pytest.mark.parametrize(
    ("dsn", "told"),
    [
        ("beanstalkd://user:s3cret@localhost", "beanstalkd knows no users; those of its DSN are without effect."),
        ("beanstalkd://localhost/orders", "The path of beanstalkd:// is without effect. Write ?tube_name=... for"),
    ],
)
def test_what_symfony_passes_over_is_remarked(caplog, dsn, told):
    """A tube in the path would be misunderstood without a word; so would a password that protects nothing."""
    with caplog.at_level(logging.WARNING):
        make(dsn)

    assert told in caplog.text
    assert "s3cret" not in caplog.text


def test_a_larger_job_is_promised_where_the_server_takes_one():
    """The guarantees of the transport say what its DSN says."""
    assert 65_535 == make("beanstalkd://localhost").guarantees.largest_message
    assert 1_000_000 == make("beanstalkd://localhost?max_job_size=1000000").guarantees.largest_message


def test_the_scheme_is_registered_with_its_options():
    """A DSN finds its factory, its options and its guarantees."""
    plugins = Plugins()
    plugins.add(sys.modules["postbus_beanstalkd"], Plugin("postbus_beanstalkd", "postbus_beanstalkd", "test"))

    registered = plugins.scheme_for(Dsn.parse("BEANSTALKD://localhost"))

    assert BeanstalkdOptions is registered.options
    assert registered.guarantees is not None


def test_importing_the_plugin_imports_no_client():
    """It is imported wherever an app is made, and most of those connect to nothing."""
    code = (
        "import sys, click, postbus_beanstalkd; group = click.Group(); postbus_beanstalkd.register_commands(group); "
        "assert 'greenstalk' not in sys.modules, sorted(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
