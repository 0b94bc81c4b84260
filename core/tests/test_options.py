"""How the options of a DSN are declared, read, refused and described."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import pytest

from postbus.dsn import Dsn, OptionInfo, Options, option
from postbus.errors import ConfigurationError, DsnError

ENGINE = object()


class Everything(Options):
    """An option of every type."""

    name: str = option("messages", "A string.")
    count: int = option(10, "An int.")
    ratio: float = option(0.5, "A float.")
    auto_setup: bool = option(True, "A bool.")
    mode: Literal["fast", "safe"] = option("safe", "A choice.")
    nodes: list[str] = option(factory=list, meaning="A list.")
    topics: tuple[str, ...] = option((), "A list that cannot be changed.")
    queues: Mapping[str, object] = option(factory=dict, meaning="A mapping.")
    arguments: dict[str, object] = option(factory=dict, meaning="A dict.")
    cacert: str | None = option(None, "A string or none.")
    limit: int | None = option(None, "An int or none.")
    engine: object | None = option(None, "Whatever code passes.")
    timeout: int = option(30, "Whole seconds.", unit="seconds")
    wait: float = option(1.0, "Seconds.", unit="seconds")
    interval: int = option(60000, "Whole milliseconds.", unit="milliseconds")
    body: int = option(1000, "Not a time.", unit="bytes")


class RedisOptions(Options):
    """Options with limits, other names and secrets."""

    stream: str = option("messages", "Stream that holds the messages.")
    stream_max_entries: int = option(0, "Trim the stream to about so many entries.", minimum=0)
    redeliver_timeout: int = option(3600, "Deliver again what is pending for longer.", unit="seconds", minimum=1)
    fetch_size: int = option(10, "Entries per round trip.", minimum=1, maximum=1000)
    sentinel_master: str | None = option(None, "Name of the master.", symfony="redis_sentinel", aliases=("master",))
    password: str | None = option(None, "Password.")
    key_size: int = option(1, "A secret with a limit.", minimum=1)
    login: int | None = option(None, "A secret by one of its names.", aliases=("auth",))
    serializer: int | None = option(None, "Only phpredis has one.", no_effect=True)


class NoOptions(Options):
    """A transport without options."""


READ = [
    ("name=jobs", "name", "jobs"),
    ("name=", "name", ""),
    ("name=a%2Fb+c", "name", "a/b+c"),
    ("count=12", "count", 12),
    ("count=-5", "count", -5),
    ("ratio=0.25", "ratio", 0.25),
    ("ratio=2", "ratio", 2.0),
    *((f"auto_setup={text}", "auto_setup", True) for text in ("1", "true", "yes", "on", "TRUE", "On")),
    *((f"auto_setup={text}", "auto_setup", False) for text in ("0", "false", "no", "off", "False", "OFF")),
    ("mode=fast", "mode", "fast"),
    ("nodes[]=a&nodes[]=b", "nodes", ["a", "b"]),
    ("nodes[1]=b&nodes[0]=a", "nodes", ["a", "b"]),
    ("topics[]=a,b", "topics", ("a,b",)),
    ("queues[fast][binding_keys][]=a", "queues", {"fast": {"binding_keys": {"0": "a"}}}),
    ("arguments[x]=1", "arguments", {"x": "1"}),
    ("cacert=/etc/ssl", "cacert", "/etc/ssl"),
    ("limit=3", "limit", 3),
    ("timeout=30", "timeout", 30),
    ("timeout=90s", "timeout", 90),
    ("timeout=1.5m", "timeout", 90),
    ("timeout=2000ms", "timeout", 2),
    ("timeout=2h", "timeout", 7200),
    ("timeout=1d", "timeout", 86400),
    ("wait=250ms", "wait", 0.25),
    ("wait=0.1s", "wait", 0.1),
    ("wait=5m", "wait", 300.0),
    ("interval=500", "interval", 500),
    ("interval=1.5s", "interval", 1500),
]


@pytest.mark.parametrize(("query", "name", "value"), READ)
def test_a_query_is_read_in_the_types_that_are_declared(query: str, name: str, value: object) -> None:
    """The text of an option becomes a value of the field's type, and of no other."""
    options = Everything.from_dsn(Dsn.parse(f"x://h?{query}"))

    assert value == getattr(options, name)
    assert type(value) is type(getattr(options, name))


PASSED = [
    ("name", "jobs", "jobs"),
    ("count", 12, 12),
    ("count", "13", 13),
    ("ratio", 2, 2.0),
    ("ratio", 0.25, 0.25),
    ("auto_setup", False, False),
    ("auto_setup", "no", False),
    ("mode", "fast", "fast"),
    ("nodes", ["a", "b"], ["a", "b"]),
    ("nodes", ("a",), ["a"]),
    ("topics", ["a"], ("a",)),
    ("queues", {"fast": {"flags": 2, "keys": ["a"]}}, {"fast": {"flags": 2, "keys": ["a"]}}),
    ("engine", ENGINE, ENGINE),
    ("timeout", 5, 5),
    ("timeout", "5m", 300),
    ("wait", 2, 2.0),
]


@pytest.mark.parametrize(("name", "passed", "value"), PASSED)
def test_a_value_of_the_configuration_is_taken_in_its_own_type(name: str, passed: object, value: object) -> None:
    """What is already an int, a bool, a list, a mapping or an object need not be written as text."""
    options = Everything.from_dsn(Dsn.parse("x://h").with_options({name: passed}))

    assert value == getattr(options, name)
    assert type(value) is type(getattr(options, name))


SECONDS = "must be an int of seconds or a duration such as '90s'"
REFUSED = [
    ("count=abc", "Option 'count' of x:// must be an int, got 'abc'."),
    ("count=1.5", "Option 'count' of x:// must be an int, got '1.5'."),
    ("count=1.0", "Option 'count' of x:// must be an int, got '1.0'."),
    ("count=1_000", "Option 'count' of x:// must be an int, got '1_000'."),
    ("count=", "Option 'count' of x:// must be an int, got ''."),
    ("count=+1", "Option 'count' of x:// must be an int, got '+1'."),
    ("count=٣", "Option 'count' of x:// must be an int, got '٣'."),
    ("count=" + 5000 * "9", "Option 'count' of x:// must be an int"),
    ("count=5s", "Option 'count' of x:// must be an int, got '5s'."),
    ("count[a]=1", "Option 'count' of x:// must be an int, got {'a': '1'}."),
    ("ratio=abc", "Option 'ratio' of x:// must be a float, got 'abc'."),
    ("ratio=nan", "Option 'ratio' of x:// must be a float, got 'nan'."),
    ("ratio=1e3", "Option 'ratio' of x:// must be a float, got '1e3'."),
    ("auto_setup=maybe", "Option 'auto_setup' of x:// must be a bool, got 'maybe'."),
    ("auto_setup=", "Option 'auto_setup' of x:// must be a bool, got ''."),
    ("mode=slow", "Option 'mode' of x:// must be one of 'fast', 'safe', got 'slow'."),
    ("nodes=a", "Option 'nodes' of x:// must be a list, written 'nodes[]=a&nodes[]=b', got 'a'."),
    ("nodes=", "Option 'nodes' of x:// must be a list"),
    ("nodes[a]=1", "Option 'nodes' of x:// must be a list"),
    ("nodes[1]=a", "Option 'nodes' of x:// must be a list"),
    ("nodes[0][a]=1", "Option 'nodes' of x:// must be a list"),
    ("topics=a", "Option 'topics' of x:// must be a list"),
    ("queues=a", "Option 'queues' of x:// must be a mapping, got 'a'."),
    ("name[a]=1", "Option 'name' of x:// must be a str, got {'a': '1'}."),
    ("engine=a", "Option 'engine' of x:// must be an object passed in code, got 'a'."),
    ("engine[a]=1", "Option 'engine' of x:// must be an object passed in code, got {'a': '1'}."),
    ("limit=abc", "Option 'limit' of x:// must be an int, got 'abc'."),
    ("timeout=1.5", f"Option 'timeout' of x:// {SECONDS}, got '1.5'."),
    ("timeout=1500ms", f"Option 'timeout' of x:// {SECONDS}, got '1500ms'."),
    ("timeout=s", f"Option 'timeout' of x:// {SECONDS}, got 's'."),
    ("timeout=5 s".replace(" ", "%20"), f"Option 'timeout' of x:// {SECONDS}, got '5 s'."),
    ("body=5s", "Option 'body' of x:// must be an int, got '5s'."),
]


@pytest.mark.parametrize(("query", "message"), REFUSED, ids=[query[:20] for query, _ in REFUSED])
def test_a_value_of_another_type_is_refused(query: str, message: str) -> None:
    """The error names the option, what it must be and what was given."""
    assert message in refusal(Everything, f"x://h?{query}")


PASSED_AND_REFUSED = [
    ("count", True, "must be an int, got True."),
    ("count", 1.0, "must be an int, got 1.0."),
    ("ratio", False, "must be a float, got False."),
    ("auto_setup", 1, "must be a bool, got 1."),
    ("name", 5, "must be a str, got 5."),
    ("nodes", ["a", 1], "must be a list, written 'nodes[]=a&nodes[]=b', got ['a', 1]."),
    ("queues", ["a"], "must be a mapping, got ['a']."),
    ("name", ENGINE, "must be a str, got '<object>'."),
    ("count", {"password": "geheim"}, "must be an int, got {'password': '***'}."),
]


@pytest.mark.parametrize(("name", "passed", "message"), PASSED_AND_REFUSED)
def test_a_value_of_the_configuration_is_refused_in_the_same_way(name: str, passed: object, message: str) -> None:
    """Python's types are not turned into one another, and an unknown object shows only its type."""
    assert f"Option {name!r} of x:// {message}" == refusal(Everything, "x://h", {name: passed})


def test_without_options_every_default_holds() -> None:
    """What is not given is the default; one that a factory makes belongs to nobody else."""
    first, second = Everything.from_dsn(Dsn.parse("x://h")), Everything.from_dsn(Dsn.parse("x://h"))

    assert Everything() == first
    assert ("messages", 10, [], None) == (first.name, first.count, first.nodes, first.engine)
    assert first.nodes is not second.nodes


def test_options_are_a_frozen_dataclass() -> None:
    """They are made by keyword, compared by value and never changed."""
    options = Everything(name="jobs", count=3)

    assert Everything.from_dsn(Dsn.parse("x://h?name=jobs&count=3")) == options
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.count = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        Everything("jobs")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("query", "configuration", "stream"),
    [
        ("", {}, "path"),
        ("?stream=query", {}, "query"),
        ("?stream=query", {"stream": "configuration"}, "configuration"),
        ("", {"stream": "configuration"}, "configuration"),
        ("?stream=query", {"stream": None}, "messages"),
    ],
)
def test_configuration_wins_over_query_over_path(query: str, configuration: Mapping[str, object], stream: str) -> None:
    """There is one rule of precedence; None stands for the default."""
    dsn = Dsn.parse(f"redis://h/path{query}").with_options(configuration)

    assert stream == RedisOptions.from_dsn(dsn, stream=dsn.segments[0]).stream


def test_a_positional_value_that_is_none_is_not_given() -> None:
    """A plugin passes what the address may hold, without asking whether it does."""
    dsn = Dsn.parse("redis://h")

    assert RedisOptions() == RedisOptions.from_dsn(dsn, stream=None, password=dsn.password)


def test_a_positional_value_is_checked_like_an_option() -> None:
    """A segment of the path is text, and is read and refused as the option that it stands for."""
    assert 5 == RedisOptions.from_dsn(Dsn.parse("redis://h"), fetch_size="5").fetch_size
    with pytest.raises(DsnError, match=r"Option 'fetch_size' of redis:// must be an int, got 'x'\."):
        RedisOptions.from_dsn(Dsn.parse("redis://h"), fetch_size="x")


def test_a_positional_value_must_be_declared() -> None:
    """A misspelt one is a mistake of the plugin's author, who is told by Python itself."""
    with pytest.raises(TypeError, match="strem"):
        RedisOptions.from_dsn(Dsn.parse("redis://h"), strem="x")


def test_an_option_may_be_given_by_each_of_its_names() -> None:
    """The name that Symfony has, and an alias, are as good as the option's own."""
    for name in ("sentinel_master", "redis_sentinel", "master"):
        assert "db" == RedisOptions.from_dsn(Dsn.parse(f"redis:?{name}=db")).sentinel_master


def test_two_names_of_one_option_are_refused() -> None:
    """Which of the two was meant cannot be known."""
    message = "Options 'sentinel_master' and 'redis_sentinel' of redis:// mean the same. Give one of them."

    assert message == refusal(RedisOptions, "redis:?redis_sentinel=a&sentinel_master=b")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("redeliver_timeout=-5", "Option 'redeliver_timeout' of redis:// must be at least 1, got -5."),
        ("redeliver_timeout=0", "Option 'redeliver_timeout' of redis:// must be at least 1, got 0."),
        ("fetch_size=1001", "Option 'fetch_size' of redis:// must be at most 1000, got 1001."),
        ("stream_max_entries=abc", "Option 'stream_max_entries' of redis:// must be an int, got 'abc'."),
        ("key_size=-77", "Option 'key_size' of redis:// must be at least 1, got ***."),
        ("key_size=seven", "Option 'key_size' of redis:// must be an int, got ***."),
        ("auth=seven", "Option 'auth' of redis:// must be an int, got ***."),
        ("login=seven", "Option 'login' of redis:// must be an int, got ***."),
        ("password[a]=seven", "Option 'password' of redis:// must be a str, got ***."),
    ],
)
def test_a_value_out_of_its_limits_is_refused(query: str, message: str) -> None:
    """The error names the limit; the value of a secret option is not shown."""
    assert message == refusal(RedisOptions, f"redis://h?{query}")


def test_the_limits_themselves_are_allowed() -> None:
    """A minimum and a maximum belong to the range."""
    assert 1 == RedisOptions.from_dsn(Dsn.parse("redis://h?fetch_size=1")).fetch_size
    assert 1000 == RedisOptions.from_dsn(Dsn.parse("redis://h?fetch_size=1000")).fetch_size


def test_an_unknown_option_is_refused_with_the_nearest_one() -> None:
    """One wrong letter is met with the option that was meant, and with all that there are."""
    listed = "stream, stream_max_entries, redeliver_timeout, fetch_size, sentinel_master, password, key_size, login"

    assert f"Unknown option 'strem' for redis://. Did you mean 'stream'? Options: {listed}." == refusal(
        RedisOptions, "redis://h?strem=x"
    )
    assert f"Unknown option 'redis_sentinal' for redis://. Did you mean 'redis_sentinel'? Options: {listed}." == (
        refusal(RedisOptions, "redis://h?redis_sentinal=x")
    )
    assert f"Unknown option 'zzz' for redis://. Options: {listed}." == refusal(RedisOptions, "redis://h?zzz=x")
    assert "Unknown option 'x' for sync://. Options: none." == refusal(NoOptions, "sync://?x=1")


@pytest.mark.parametrize("name", [info.name for info in RedisOptions.describe()])
def test_one_wrong_letter_is_always_recognised(name: str) -> None:
    """Whichever letter is missing, the option that was meant is offered."""
    for position in range(len(name)):
        misspelt = name[:position] + name[position + 1 :]
        assert f"Did you mean {name!r}?" in refusal(RedisOptions, f"redis://h?{misspelt}=x")


def test_all_problems_are_told_at_once() -> None:
    """One error holds one sentence for each mistake, so that all can be mended together."""
    with pytest.raises(DsnError) as raised:
        RedisOptions.from_dsn(Dsn.parse("redis://h?strem=x&fetch_size=0&redeliver_timeout=1.5&stream_max_entries=abc"))

    error = raised.value
    assert isinstance(error, ConfigurationError)
    assert 4 == len(error.problems)
    for option_name in ("strem", "fetch_size", "redeliver_timeout", "stream_max_entries"):
        assert any(f"option '{option_name}'" in problem.lower() for problem in error.problems)
        assert f"'{option_name}'" in str(error)


def test_options_without_effect_are_accepted_and_reported() -> None:
    """What belongs to PHP alone does no harm in a DSN, and whoever asks is told of it."""
    dsn = Dsn.parse("redis://h?serializer=1&stream=a")

    assert "a" == RedisOptions.from_dsn(dsn).stream
    assert ["serializer"] == RedisOptions.without_effect(dsn)
    assert [] == RedisOptions.without_effect(Dsn.parse("redis://h?stream=a"))


def test_options_are_described_as_they_are_declared() -> None:
    """The command line and the docs read the one declaration, in its order."""
    described = {info.name: info for info in RedisOptions.describe()}

    assert described["redeliver_timeout"] == OptionInfo(
        name="redeliver_timeout",
        type="int",
        default=3600,
        meaning="Deliver again what is pending for longer.",
        unit="seconds",
        minimum=1,
    )
    assert ("sentinel_master", "redis_sentinel", "master") == described["sentinel_master"].names
    assert "redis_sentinel" == described["sentinel_master"].symfony
    assert described["serializer"].no_effect
    assert ["password", "key_size", "login"] == [info.name for info in RedisOptions.describe() if info.secret]


def test_a_type_is_described_in_words() -> None:
    """What may be None is described by what else it may be."""
    described = {info.name: info.type for info in Everything.describe()}

    assert described == {
        "name": "str",
        "count": "int",
        "ratio": "float",
        "auto_setup": "bool",
        "mode": "str",
        "nodes": "list of str",
        "topics": "tuple of str",
        "queues": "mapping",
        "arguments": "mapping",
        "cacert": "str",
        "limit": "int",
        "engine": "object passed in code",
        "timeout": "int",
        "wait": "float",
        "interval": "int",
        "body": "int",
    }
    assert ("fast", "safe") == {info.name: info for info in Everything.describe()}["mode"].choices


def test_options_can_be_shared_by_inheritance() -> None:
    """A plugin with several schemes declares what they have in common once."""

    class Special(RedisOptions):
        """RedisOptions and one more."""

        extra: int = option(1, "One more.")

    options = Special.from_dsn(Dsn.parse("redis://h?extra=2&stream=s"))

    assert (2, "s") == (options.extra, options.stream)
    assert "extra" == Special.describe()[-1].name


def test_the_options_of_a_part_are_read_from_a_dsn_of_that_part() -> None:
    """A plugin reads nested options, such as those of each queue, by their own declaration."""
    dsn = Dsn.parse("amqp://h?queues[fast][nodes][]=a&queues[fast][count]=x")
    queue = Everything.from_dsn(dsn, queues={}).queues["fast"]
    assert isinstance(queue, Mapping)

    with pytest.raises(DsnError, match="Option 'count' of amqp:// must be an int, got 'x'"):
        Everything.from_dsn(dataclasses.replace(dsn, options=queue))


def test_a_mapping_is_handed_out_as_plain_dicts_and_lists() -> None:
    """A client library may get it as it is, and a change to it changes no DSN."""
    dsn = Dsn.parse("x://h").with_options({"queues": {"fast": {"keys": ["a"]}}})

    queues = Everything.from_dsn(dsn).queues
    fast = queues["fast"]
    assert isinstance(fast, dict)
    fast["keys"] = []

    assert {"fast": {"keys": ["a"]}} == Everything.from_dsn(dsn).queues


def test_the_secrets_in_options_are_not_shown() -> None:
    """The repr of options has stars for a secret, also for one inside a mapping, and no text of an object."""
    options = RedisOptions(password="geheim", login=77)

    assert "password=***" in repr(options)
    assert "login=***" in repr(options)
    assert "stream='messages'" in str(options)
    assert "queues={'ssl': {'passphrase': '***'}}" in repr(Everything(queues={"ssl": {"passphrase": "geheim"}}))
    assert "engine='<object>'" in repr(Everything(engine=ENGINE))


def test_an_option_of_another_type_cannot_be_declared() -> None:
    """The author of a plugin is told as soon as the declaration is read."""

    class Wrong(Options):
        """A type that no text can be read as."""

        port: bytes = option(b"", "Bytes.")

    with pytest.raises(TypeError, match="<class 'bytes'>"):
        Wrong.describe()


def refusal(options: type[Options], text: str, configuration: Mapping[str, object] | None = None) -> str:
    """Return the text of the error that refuses a DSN."""
    with pytest.raises(DsnError) as raised:
        options.from_dsn(Dsn.parse(text).with_options(configuration or {}))
    return str(raised.value)
