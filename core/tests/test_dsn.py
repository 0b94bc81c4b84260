"""What a DSN is read as, what is refused, and that no secret is ever shown."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postbus.dsn import Dsn, Host, Options, option
from postbus.errors import DsnError


class Case(NamedTuple):
    """A DSN and what it means."""

    text: str
    scheme: str
    user: str | None = None
    password: str | None = None
    hosts: tuple[Host, ...] = ()
    segments: tuple[str, ...] = ()
    options: Mapping[str, object] = {}


LOCALHOST = (Host("localhost"),)
SEEDS = (Host("host-01", 6379), Host("host-02", 6379), Host("host-03", 6379), Host("host-04", 6379))
SENTINELS = (Host("redis1", 26379), Host("redis2", 26379), Host("redis3", 26379))

AMQP = [
    Case(
        "amqp://guest:guest@localhost:5672/%2f/messages",
        "amqp",
        "guest",
        "guest",
        (Host("localhost", 5672),),
        ("/", "messages"),
    ),
    Case(
        "amqp://localhost/%2f/messages?auto_setup=false",
        "amqp",
        hosts=LOCALHOST,
        segments=("/", "messages"),
        options={"auto_setup": "false"},
    ),
    Case("amqps://guest:guest@localhost/%2f/messages", "amqps", "guest", "guest", LOCALHOST, ("/", "messages")),
    Case("amqps://localhost?cacert=/etc/ssl/certs/", "amqps", hosts=LOCALHOST, options={"cacert": "/etc/ssl/certs/"}),
    Case(
        "amqps://localhost?cacert=/etc/ssl/certs/&port=12345",
        "amqps",
        hosts=LOCALHOST,
        options={"cacert": "/etc/ssl/certs/", "port": "12345"},
    ),
    Case(
        "amqp://localhost/%2f/messages?queues[fast][binding_keys][0]=a&queues[fast][binding_keys][1]=b"
        "&exchange[type]=topic&exchange[name]=jobs",
        "amqp",
        hosts=LOCALHOST,
        segments=("/", "messages"),
        options={
            "queues": {"fast": {"binding_keys": {"0": "a", "1": "b"}}},
            "exchange": {"type": "topic", "name": "jobs"},
        },
    ),
    Case("amqp://h", "amqp", hosts=(Host("h"),), segments=()),
    Case("amqp://h/", "amqp", hosts=(Host("h"),), segments=("",)),
    Case("amqp://h//ex", "amqp", hosts=(Host("h"),), segments=("", "ex")),
]

REDIS = [
    Case("redis://localhost:6379/messages", "redis", hosts=(Host("localhost", 6379),), segments=("messages",)),
    Case(
        "redis://password@localhost:6379/messages/symfony/consumer"
        "?auto_setup=true&serializer=1&stream_max_entries=0&dbindex=0&delete_after_ack=true",
        "redis",
        user="password",
        hosts=(Host("localhost", 6379),),
        segments=("messages", "symfony", "consumer"),
        options={
            "auto_setup": "true",
            "serializer": "1",
            "stream_max_entries": "0",
            "dbindex": "0",
            "delete_after_ack": "true",
        },
    ),
    Case(
        "redis://user:password@localhost:6379/messages",
        "redis",
        "user",
        "password",
        (Host("localhost", 6379),),
        ("messages",),
    ),
    Case(
        "redis://host-01:6379,redis://host-02:6379,redis://host-03:6379,redis://host-04:6379",
        "redis",
        hosts=SEEDS,
    ),
    Case("redis://host-01:6379,host-02:6379,host-03:6379,host-04:6379", "redis", hosts=SEEDS),
    Case(
        "redis://u:p@host-01:6379/s,REDIS://u:p@host-02:6379/s?a=1",
        "redis",
        "u",
        "p",
        SEEDS[:2],
        ("s",),
        {"a": "1"},
    ),
    Case("redis:///var/run/redis.sock", "redis", segments=("var", "run", "redis.sock")),
    Case("redis:/var/run/redis.sock", "redis", segments=("var", "run", "redis.sock")),
    Case("redis://u:p@/var/run/redis.sock", "redis", "u", "p", segments=("var", "run", "redis.sock")),
    Case("rediss://localhost:6379/messages", "rediss", hosts=(Host("localhost", 6379),), segments=("messages",)),
    Case(
        "redis:?host[redis1:26379]&host[redis2:26379]&host[redis3:26379]&sentinel_master=db",
        "redis",
        hosts=SENTINELS,
        options={"sentinel_master": "db"},
    ),
    Case("redis:?host%5Bredis1%3A26379%5D&host[[::1]:1]", "redis", hosts=(Host("redis1", 26379), Host("::1", 1))),
    Case("redis://h?host[a]=b", "redis", hosts=(Host("h"),), options={"host": {"a": "b"}}),
    Case("redis:", "redis"),
    Case("redis://:p@h", "redis", None, "p", (Host("h"),)),
    Case("redis://u:@h", "redis", "u", "", (Host("h"),)),
    Case("redis://@h", "redis", None, None, (Host("h"),)),
    Case("valkey://localhost", "valkey", hosts=LOCALHOST),
    Case("valkeys://localhost", "valkeys", hosts=LOCALHOST),
]

OTHERS = [
    Case("doctrine://default", "doctrine", hosts=(Host("default"),)),
    Case(
        "doctrine://default?queue_name=failed", "doctrine", hosts=(Host("default"),), options={"queue_name": "failed"}
    ),
    Case(
        "doctrine://default?table_name=your_custom_table_name&auto_setup=false",
        "doctrine",
        hosts=(Host("default"),),
        options={"table_name": "your_custom_table_name", "auto_setup": "false"},
    ),
    Case(
        "beanstalkd://localhost:11300?tube_name=foo&timeout=4&ttr=120",
        "beanstalkd",
        hosts=(Host("localhost", 11300),),
        options={"tube_name": "foo", "timeout": "4", "ttr": "120"},
    ),
    Case("beanstalkd://localhost", "beanstalkd", hosts=LOCALHOST),
    Case("in-memory://", "in-memory"),
    Case("in-memory://?serialize=true", "in-memory", options={"serialize": "true"}),
    Case("sync://", "sync"),
    Case(
        "https://sqs.eu-west-3.amazonaws.com/123456789012/messages"
        "?access_key=AKIAIOSFODNN7EXAMPLE&secret_key=j17M97ffSVoKI0briFoo9a",
        "https",
        hosts=(Host("sqs.eu-west-3.amazonaws.com"),),
        segments=("123456789012", "messages"),
        options={"access_key": "AKIAIOSFODNN7EXAMPLE", "secret_key": "j17M97ffSVoKI0briFoo9a"},
    ),
    Case(
        "sqs://localhost:9494/messages?sslmode=disable",
        "sqs",
        hosts=(Host("localhost", 9494),),
        segments=("messages",),
        options={"sslmode": "disable"},
    ),
    Case(
        "sqs://ACCESS:SECRET%2Fwith%2Fslashes@default/messages.fifo?region=eu-west-1&wait_time=20",
        "sqs",
        "ACCESS",
        "SECRET/with/slashes",
        (Host("default"),),
        ("messages.fifo",),
        {"region": "eu-west-1", "wait_time": "20"},
    ),
    Case(
        "kafka://host1:9092,host2:9092/topic?group=app",
        "kafka",
        hosts=(Host("host1", 9092), Host("host2", 9092)),
        segments=("topic",),
        options={"group": "app"},
    ),
    Case(
        "kafkas://user:p%40ss@[::1]:9093/topic?group=app&sasl_mechanism=SCRAM-SHA-256",
        "kafkas",
        "user",
        "p@ss",
        (Host("::1", 9093),),
        ("topic",),
        {"group": "app", "sasl_mechanism": "SCRAM-SHA-256"},
    ),
    Case("kafka://[::1]/topic", "kafka", hosts=(Host("::1"),), segments=("topic",)),
    Case("kafka://[fe80::1%25eth0]:1,[::2]", "kafka", hosts=(Host("fe80::1%eth0", 1), Host("::2"))),
    Case("sqlite:///relative.db", "sqlite", segments=("relative.db",)),
    Case("sqlite:////absolute/path.db", "sqlite", segments=("", "absolute", "path.db")),
    Case("sqlite://", "sqlite"),
    Case(
        "postgresql://u:p@localhost/app?queue_name=high",
        "postgresql",
        "u",
        "p",
        LOCALHOST,
        ("app",),
        {"queue_name": "high"},
    ),
    Case("postgresql+psycopg://u:p@localhost/app", "postgresql+psycopg", "u", "p", LOCALHOST, ("app",)),
    Case("mysql://u:p@localhost/app", "mysql", "u", "p", LOCALHOST, ("app",)),
    Case("mysql+pymysql://u:p@localhost/app", "mysql+pymysql", "u", "p", LOCALHOST, ("app",)),
]

# What kombu 5.7 fails on or misreads, as far as it is a DSN at all.
KOMBU = [
    Case("kafka://h1:9092,h2:9092/topic", "kafka", hosts=(Host("h1", 9092), Host("h2", 9092)), segments=("topic",)),
    Case("sqs://AKIA:secret@", "sqs", "AKIA", "secret"),
    Case("sqs://AKIA@QueueHost", "sqs", "AKIA", hosts=(Host("QueueHost"),)),
    Case("redis://user:p%40ss@h1:6379/0", "redis", "user", "p@ss", (Host("h1", 6379),), ("0",)),
]

FORMS = [
    Case("REDIS://Host/Stream", "redis", hosts=(Host("Host"),), segments=("Stream",)),
    Case("  redis://h\n", "redis", hosts=(Host("h"),)),
    Case("x://h?", "x", hosts=(Host("h"),)),
    Case("x://h?&&a=1&&", "x", hosts=(Host("h"),), options={"a": "1"}),
    Case("x://h?a=", "x", hosts=(Host("h"),), options={"a": ""}),
    Case("x://h?a=b=c?d", "x", hosts=(Host("h"),), options={"a": "b=c?d"}),
    Case(
        "x://h?mail=me@example.org&sum=1+1", "x", hosts=(Host("h"),), options={"mail": "me@example.org", "sum": "1+1"}
    ),
    Case("x://h?a[]=1&a[]=2", "x", hosts=(Host("h"),), options={"a": {"0": "1", "1": "2"}}),
    Case("x://h?a[][b]=1&a[][c]=2", "x", hosts=(Host("h"),), options={"a": {"0": {"b": "1"}, "1": {"c": "2"}}}),
    Case("x://h?a%5Bb%5D=1", "x", hosts=(Host("h"),), options={"a": {"b": "1"}}),
    Case("x://u%3A1:%2F%25%2B@h", "x", "u:1", "/%+", (Host("h"),)),
]


@pytest.mark.parametrize("case", [*AMQP, *REDIS, *OTHERS, *KOMBU, *FORMS], ids=lambda case: case.text)
def test_a_dsn_is_read_as_what_it_means(case: Case) -> None:
    """Scheme, user, password, hosts, path and options are those that the table states."""
    dsn = Dsn.parse(case.text)

    assert case.scheme == dsn.scheme
    assert (case.user, case.password) == (dsn.user, dsn.password)
    assert case.hosts == dsn.hosts
    assert case.segments == dsn.segments
    assert case.options == dsn.options


def test_the_path_is_kept_as_written() -> None:
    """Only its segments are decoded, so that an encoded slash stays inside its segment."""
    assert "/%2f/messages" == Dsn.parse("amqp://localhost/%2f/messages").path
    assert "" == Dsn.parse("amqp://localhost").path
    assert "//ex" == Dsn.parse("amqp://localhost//ex").path


def test_host_and_port_are_those_of_the_first_host() -> None:
    """A plugin that takes one server need not look into the list of hosts."""
    assert ("h1", 1) == (Dsn.parse("x://h1:1,h2:2").host, Dsn.parse("x://h1:1,h2:2").port)
    assert ("h1", None) == (Dsn.parse("x://h1").host, Dsn.parse("x://h1").port)
    assert (None, None) == (Dsn.parse("x://").host, Dsn.parse("x://").port)


def test_a_dsn_cannot_be_changed() -> None:
    """Neither its parts nor its options, however deep, can be set."""
    dsn = Dsn.parse("x://h?a[b]=1").with_options({"c": [{"d": "1"}]})

    with pytest.raises(dataclasses.FrozenInstanceError):
        dsn.scheme = "y"  # type: ignore[misc]
    with pytest.raises(TypeError):
        dsn.options["a"]["c"] = "2"  # type: ignore[index]
    assert {"a": {"b": "1"}, "c": ({"d": "1"},)} == dsn.options


def test_options_of_the_configuration_win_over_the_query() -> None:
    """An option that the configuration gives replaces the query's; the others stay, and so does the first DSN."""
    dsn = Dsn.parse("x://u:p@h/s?a=1&b=2&c[d]=3")

    merged = dsn.with_options({"b": 20, "c": {"e": True}})

    assert {"a": "1", "b": 20, "c": {"e": True}} == merged.options
    assert {"a": "1", "b": "2", "c": {"d": "3"}} == dsn.options
    assert ("u", "p", "/s") == (merged.user, merged.password, merged.path)


REFUSED = {
    "": "The DSN is empty. Write one such as redis://localhost:6379/messages.",
    "redis": "A DSN starts with a scheme",
    "localhost:6379": "A DSN starts with a scheme",
    "redis:localhost": "A DSN starts with a scheme",
    "//localhost": "A DSN starts with a scheme",
    "1x://localhost": "A DSN starts with a scheme",
    "redis://h/s#f": "redis:// holds a fragment. Write '#' as %23.",
    "redis://h/a b": "redis:// holds white space. Percent-encode it, a space as %20.",
    "redis://h?a=1\nb": "redis:// holds white space.",
    "redis://h/%zz": "redis:// holds a '%' that starts no escape. Percent-encode it as %25.",
    "redis://h/%": "redis:// holds a '%' that starts no escape.",
    "redis://h/%ff": "redis:// does not decode to UTF-8.",
    "redis://h:0": "A host of redis:// is not 'name', 'name:port' or '[IPv6]:port' with a port of 1 to 65535.",
    "redis://h:65536": "with a port of 1 to 65535",
    "redis://h:": "with a port of 1 to 65535",
    "redis://h:x": "with a port of 1 to 65535",
    "redis://h:٣": "with a port of 1 to 65535",
    "redis://:6379": "A host of redis:// is not",
    "redis://h1,,h2": "A host of redis:// is not",
    "redis://::1": "'[IPv6]:port'",
    "redis://[::1": "'[IPv6]:port'",
    "redis://[h]": "'[IPv6]:port'",
    "redis:?host[]": "A host of redis:// is not",
    "redis:?host[h:0]": "with a port of 1 to 65535",
    "redis://a,rediss://b": "A host of redis:// is not",
    "sentinel://h1:26379;sentinel://h2:26379": "Separate hosts by ','.",
    "redis://a/s,redis://b/t": "The hosts of redis:// have different users or paths. Write those once.",
    "redis://u@a,redis://v@b": "The hosts of redis:// have different users or paths.",
    "redis://h?=x": "An option of redis:// has no proper name. Write 'name=value' or 'name[key]=value'.",
    "redis://h?a[b=x": "An option of redis:// has no proper name.",
    "redis://h?a[b]c=x": "An option of redis:// has no proper name.",
    "redis://h?a": "Option 'a' of redis:// has no value. Write it as 'a=value'.",
    "redis://h?a=1&a=1": "Option 'a' of redis:// is given twice. Give it once, or a list as 'a[]=1&a[]=2'.",
    "redis://h?a[b]=1&a[b]=2": "Option 'a[b]' of redis:// is given twice.",
    "redis://h?a=1&a[b]=2": "Option 'a[b]' of redis:// is given twice.",
    "redis://h?a[b]=2&a=1": "Option 'a' of redis:// is given twice.",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items(), ids=repr)
def test_what_is_ambiguous_is_refused_with_the_next_step(text: str, message: str) -> None:
    """Nothing is guessed: the error names the fact and what to write instead."""
    assert message in str(refusal(text))


UNENCODED = [
    "redis://user:qwertz/uiop@h/s",
    "redis://qwertz/uiop@h/s",
    "redis://user:12/qwertz@h/s",
    "redis://:/qwertz@h/s",
    "sqs://AKIA/b:qwertz/ret@",
    "redis://user:qwertz@uiop@h/s",
    "redis://qwertz@uiop@h/s",
    "redis://user:qwertz+uiop@h/s",
    "redis://qwertz+uiop@h/s",
    "redis://user:qwertz:uiop@h/s",
    "redis://user:qwertz%uiop@h/s",
    "redis://qwertz%uiop@h/s",
    "redis://user:qwertz#uiop@h/s",
    "redis://user:qwertz?uiop@h/s",
    "redis://user:12?qwertz@h/s",
    "redis://user:12?qwertz&uiop@h/s",
    "redis://user:qw ertz@h/s",
    "redis:?host[user:qwertz@h]",
    "x://h?secret_key=qwertz+uiop",
    "x://h?secret_key=qwertz%uiop",
    "x://h?secret_key=qwertz#uiop",
    "x://h?ssl[passphrase]=qwertz+uiop",
    "x://h?password=ui&qwertz",
]


@pytest.mark.parametrize("text", UNENCODED)
def test_an_unencoded_secret_is_refused_and_not_shown(text: str) -> None:
    """Where a reserved character of a secret cuts the DSN at a wrong place, the error tells to encode it."""
    error = refusal(text)

    assert "ercent-encode" in str(error) or "Write '" in str(error)
    assert not [shown for shown in everything_in(error) if "qwertz" in shown or "uiop" in shown]


MASKED = {
    "redis://password@host": "redis://***@host",
    "redis://user:password@host:1/s": "redis://***:***@host:1/s",
    "redis://:password@h1:1,h2": "redis://***:***@h1:1,h2",
    "redis://h": "redis://h",
    "redis:///var/run/redis.sock": "redis:///var/run/redis.sock",
    "redis:?host[[::1]:1]&a=b": "redis://[::1]:1?a=b",
    "x://?Access_Key=1&b=2": "x://?Access_Key=***&b=2",
    "x://?client_secret=1&token=2&PASSWORD=3": "x://?client_secret=***&token=***&PASSWORD=***",
    "x://?passphrase=1&passwd=2&pwd=3&credentials=4": "x://?passphrase=***&passwd=***&pwd=***&credentials=***",
    "x://?auth=1&author=2": "x://?auth=***&author=2",
    "x://?auth[]=user&auth[]=pass": "x://?auth=***",
    "x://?sentinel_auth=1": "x://?sentinel_auth=***",
    "x://?sasl[Auth]=1&sasl[author]=2": "x://?sasl[Auth]=***&sasl[author]=2",
    "x://?ssl[passphrase]=1&ssl[cafile]=2": "x://?ssl[passphrase]=***&ssl[cafile]=2",
    "x://?keys[a][b]=1": "x://?keys=***",
    "x://?proxy=http://u:p@h:1/": "x://?proxy=http://***@h:1/",
    "x://?a=%0Ab": "x://?a=%0Ab",
}


@pytest.mark.parametrize(("text", "shown"), MASKED.items())
def test_a_dsn_is_shown_without_its_secrets(text: str, shown: str) -> None:
    """User, password and every option with a secret name are stars, in str and in repr."""
    dsn = Dsn.parse(text)

    assert shown == str(dsn)
    assert f"<Dsn {shown}>" == repr(dsn)


def test_objects_of_the_configuration_are_shown_by_their_type() -> None:
    """The text of an unknown object may hold a secret, so it is not asked for one."""
    dsn = Dsn.parse("x://").with_options({"a": [1, None], "b": {"c": True, "token": "t"}, "d": os, "e": "\udcff"})

    assert "x://?a[0]=1&a[1]=None&b[c]=True&b[token]=***&d=<module>&e=%3F" == str(dsn)


# --- Any DSN ---

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
NAMES = st.from_regex("[a-z][a-z0-9_.-]*", fullmatch=True)
KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="[]"), min_size=1)
HOSTS = st.builds(
    Host,
    st.from_regex("[A-Za-z0-9_-]+", fullmatch=True) | st.ip_addresses().map(str),
    st.none() | st.integers(1, 65535),
)
TREES = st.recursive(TEXTS | st.just(""), lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=3))


@given(
    scheme=st.from_regex("[a-z][a-z0-9+.-]*", fullmatch=True),
    user=TEXTS,
    password=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    hosts=st.lists(HOSTS, min_size=1, max_size=4),
    segments=st.lists(TEXTS | st.just(""), max_size=3),
    options=st.dictionaries(NAMES, TREES, max_size=4),
)
def test_encoded_parts_come_back_as_they_were(
    scheme: str,
    user: str,
    password: str | None,
    hosts: list[Host],
    segments: list[str],
    options: dict[str, object],
) -> None:
    """Whatever is percent-encoded into a DSN is read from it unchanged."""
    user_info = encode(user) if password is None else f"{encode(user)}:{encode(password)}"
    path = "".join(f"/{encode(segment)}" for segment in segments)
    query = "&".join(item for name, value in options.items() for item in query_items(name, value))

    dsn = Dsn.parse(f"{scheme}://{user_info}@{','.join(map(str, hosts))}{path}?{query}")

    assert (scheme, user, password) == (dsn.scheme, dsn.user, dsn.password)
    assert tuple(hosts) == dsn.hosts
    assert tuple(segments) == dsn.segments
    assert options == dsn.options


class SecretOptions(Options):
    """Options with secrets in several places."""

    secret_key: str | None = option(None, "A secret.")
    pin_token: int = option(0, "A secret that should be a number.", minimum=5)
    ssl: Mapping[str, object] = option(factory=dict, meaning="Has a secret inside.")
    login: str | None = option(None, "A secret by its other name.", symfony="credential")
    size: int = option(1, "A number.", minimum=1)


SECRETS = st.text("ŽŚĆ☃ΩЖ/+@:%?#&= ", min_size=8, max_size=20)
AROUND_A_SECRET = [
    "x://user:{}@h",
    "x://{}@h",
    "x://{}:{}@h:99999",
    "x://{}@h1;h2",
    "x://{}@h/s@t",
    "x://{}@h/s#t",
    "x://{}@h/%zz",
    "x://{}@h/%ff",
    "x://{}@a,x://u@b",
    "x://user:{}@h?a",
    "x://user:{}@h?=a",
    "x://h?secret_key={}&secret_key={}",
    "x://h?secret_key={}&secret_key[a]={}",
    "x://h?secret_key={}&b",
    "x://h?secret_key={}+",
    "x://h?secret_key={}&size=abc&sise=2",
    "x://h?pin_token={}&size=0",
    "x://h?secret_key[a]={}",
    "x://h?ssl[passphrase]={}&size=x",
    "x://h?ssl[a][token]={}",
    "x://h?ssl={}&ssl[b]={}",
    "x://h?credential[]={}",
    "x://h?credential={}&login=a",
    "x://h?my_token={}",
]


@settings(max_examples=1000)
@given(secret=SECRETS, around=st.sampled_from(AROUND_A_SECRET))
def test_a_secret_is_never_shown(secret: str, around: str) -> None:
    """With whatever mistakes around it, a secret is in no text of the DSN, of the options or of an error."""
    text = around.replace("{}", encode(secret))

    shown = list(everything_shown_of(text))

    assert shown
    assert not [line for line in shown if secret in line or encode(secret) in line or repr(secret)[1:-1] in line]


@given(
    secret=st.tuples(st.text("ŽŚĆΩЖ", min_size=8), st.sampled_from("/+@%#"), st.text("żśćωж", min_size=8)),
    around=st.sampled_from(["x://user:{}@h/s", "x://{}@h", "x://{}:p@h?a=1", "x://user:{}@h1:1,h2:2"]),
)
def test_an_unencoded_secret_is_never_shown(secret: tuple[str, str, str], around: str) -> None:
    """No part of a secret with an unencoded reserved character is in the error that refuses it."""
    error = refusal(around.replace("{}", "".join(secret)))

    assert not [line for line in everything_in(error) if secret[0] in line or secret[2] in line]


def encode(text: str) -> str:
    """Percent-encode everything that is not a letter or a digit."""
    return quote(text, safe="")


def query_items(name: str, value: object) -> Iterator[str]:
    """Yield a nested option as the items of a query."""
    if not isinstance(value, dict):
        yield f"{name}={encode(str(value))}"
        return
    for key, inner in value.items():
        yield from query_items(f"{name}[{encode(key)}]", inner)


def refusal(text: str) -> DsnError:
    """Return the error that refuses a DSN."""
    with pytest.raises(DsnError) as raised:
        Dsn.parse(text)
    return raised.value


def everything_in(error: BaseException | None) -> Iterator[str]:
    """Yield all that a log could show of an error, its cause and its context."""
    while error is not None:
        yield from (str(error), repr(error), repr(error.args), repr(vars(error)))
        assert error.__cause__ is None
        error = error.__context__


def everything_shown_of(text: str) -> Iterator[str]:
    """Yield all that can be seen of a DSN from the outside, up to the first error."""
    try:
        dsn = Dsn.parse(text)
        yield from (str(dsn), repr(dsn), f"{dsn}")
        options = SecretOptions.from_dsn(dsn, login=dsn.user)
        yield from (str(options), repr(options))
    except DsnError as error:
        yield from everything_in(error)
