"""Data source names: parsed, masked, and their options read by one typed declaration."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from types import MappingProxyType, NoneType, UnionType
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeGuard, TypeVar, Union, cast
from urllib.parse import quote, unquote

from postbus.errors import ConfigurationError, DsnError
from postbus.spelling import nearest

T = TypeVar("T")
_NO_DEFAULT: Any = MISSING

_DSN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?=[/?]|$)(?://)?([^?]*)\??(.*)", re.DOTALL)
_HOST = re.compile(r"(?:\[([0-9A-Fa-f.]*:[\w:.%-]*)\]|([\w.~*-]+))(?::([0-9]{1,5}))?")
_OPTION_NAME = re.compile(r"[A-Za-z0-9_.-]+(?:\[[^\[\]]*\])*")
_TRAPS = {
    "a fragment. Write '#' as %23": re.compile("#"),
    "white space. Percent-encode it, a space as %20": re.compile(r"[\s\x00-\x1f\x7f]"),
    "a '%' that starts no escape. Percent-encode it as %25": re.compile("%(?![0-9A-Fa-f]{2})"),
}
_NO_DSN = {
    r"['\"]": "The DSN has quotes around it that are part of it. Leave them out.",
    r"%env\(": "The DSN is a variable as Symfony writes it. In postbus.toml, write ${NAME}.",
    r"\$": "The DSN is a variable that nobody has filled in. In postbus.toml, write ${NAME}.",
    r"\w+\s*=\s*['\"]?[A-Za-z][\w.+-]*:/": "The DSN begins with a name and '='. Leave them out.",
}
"""What people write in place of a DSN."""
_ENCODE = "In a user, password or path, percent-encode '/' as %2F, '@' as %40, and '+', ':', '%', '?', '#' alike."
_SECRET = re.compile("key|secret|token|password|passphrase|passwd|pwd|credential", re.IGNORECASE)

_MAYBE_DSN = re.compile("[@?=&%]|:/|//")
_SCHEME = re.compile("([A-Za-z][A-Za-z0-9+.-]*):/")

_NUMBER = re.compile(r"(-?[0-9]{1,18}(?:\.[0-9]{1,18})?)(ms|s|m|h|d)?")
_MILLISECONDS = {"milliseconds": 1, "seconds": 1000, "ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_BOOLS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


class Host(NamedTuple):
    """One server of a DSN; the name of an IPv6 address has no brackets."""

    name: str
    port: int | None = None

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


@dataclass(frozen=True, slots=True, repr=False)
class Dsn:
    """Where a transport is and how it is set up. Immutable, and never shown with its secrets.

    ``path`` is as it was written; all else is percent-decoded. An option is a string, or a mapping if it
    was written as ``name[key]=value`` (``name[]=value`` takes the keys "0", "1", …). One that came from
    the configuration may be any object.
    """

    scheme: str
    user: str | None = None
    password: str | None = None
    hosts: tuple[Host, ...] = ()
    path: str = ""
    options: Mapping[str, object] = field(default_factory=dict[str, object])

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", _copied(self.options, MappingProxyType, tuple))

    @classmethod
    def parse(cls, text: str) -> Dsn:
        """Return the DSN that a text is; raise `DsnError`, which quotes no secret, if it is none or is ambiguous."""
        match = _DSN.fullmatch(text.strip())
        if match is None:
            raise DsnError(_no_dsn(text.strip()))

        scheme = match[1].lower()
        _refuse_traps(scheme, match.string)
        user_info, hosts, path = _split_address(scheme, match[2])
        more_hosts, options = _split_query(scheme, match[3])
        user, colon, secret = user_info.partition(":")
        password = unquote(secret) if colon else None
        return cls(scheme, unquote(user) or None, password, (*hosts, *more_hosts), path, options)

    def with_options(self, options: Mapping[str, object]) -> Dsn:
        """Return this DSN with the configuration's options, each of which wins over the query's."""
        return replace(self, options={**self.options, **options})

    @property
    def segments(self) -> tuple[str, ...]:
        """The parts of the path, each decoded by itself: "/%2f/messages" is ("/", "messages"), "/" is ("",)."""
        return tuple(unquote(segment) for segment in self.path.split("/")[1:])

    @property
    def host(self) -> str | None:
        """The name of the first host."""
        return self.hosts[0].name if self.hosts else None

    @property
    def port(self) -> int | None:
        """The port of the first host; None if the DSN leaves it to the transport."""
        return self.hosts[0].port if self.hosts else None

    def __str__(self) -> str:
        user_info = "***:***@" if self.password is not None else "***@" if self.user is not None else ""
        hosts = ",".join(str(host) for host in self.hosts)
        items = [item for name, value in self.options.items() for item in _query_items(name, value)]
        return f"{self.scheme}://{user_info}{hosts}{self.path}{'?' if items else ''}{'&'.join(items)}"

    def __repr__(self) -> str:
        return f"<Dsn {self}>"


class Expanded(str):
    """A text of the configuration in which the environment was filled in; ``written`` is how it stands there."""

    __slots__ = ("written",)
    written: str

    def __new__(cls, text: str, written: str) -> Self:
        expanded = super().__new__(cls, text)
        expanded.written = written
        return expanded

    def __reduce__(self) -> tuple[type[Expanded], tuple[str, str]]:
        return Expanded, (str(self), self.written)


def masked(text: str) -> str:
    """Return a text as people may see it, wherever it stands: what may be a DSN, or a part of one, is not shown.

    Neither is what came from the environment. For mistakes: what `Dsn.parse` understands is shown by ``str``.
    """
    if isinstance(text, Expanded):
        text = text.written
    if not _MAYBE_DSN.search(text):
        return text
    scheme = _SCHEME.match(text)
    return f"{scheme[1]}://***" if scheme is not None else "***"


def unknown(what: str, name: str, known: Iterable[str], plural: str | None = None) -> ConfigurationError:
    """Return the error about a name that means nothing, with the nearest that does, and with all."""
    names = list(known)
    meant = nearest(name, names)
    hint = f" Did you mean {meant!r}?" if meant else ""
    there_are = f"{(plural or f'{what}s').capitalize()}: {', '.join(names) or 'none'}."
    return ConfigurationError(f"There is no {what} {masked(name)!r}.{hint} {there_are}")


def shown_options(options: Mapping[str, object]) -> Mapping[str, object]:
    """Return options as people may see them, each value masked as its name wants it."""
    return {name: _masked(name, value) for name, value in options.items()}


def _no_dsn(text: str) -> str:
    """Return what is wrong with a text that does not even begin as a DSN, without quoting any of it."""
    such = "such as redis://localhost:6379/messages"
    if not text:
        return f"The DSN is empty. Write one {such}."
    for pattern, fact in _NO_DSN.items():
        if re.match(pattern, text):
            return fact
    return f"A DSN starts with a scheme and '://'. Write one {such}."


def _refuse_traps(scheme: str, text: str) -> None:
    """Refuse what makes a DSN mean something else than its author thought, wherever it stands."""
    for trap, pattern in _TRAPS.items():
        if pattern.search(text):
            raise DsnError(f"{scheme}:// holds {trap}.")
    if re.search("[\ud800-\udfff]", unquote(text, errors="surrogateescape")):
        raise DsnError(f"{scheme}:// does not decode to UTF-8. Percent-encode the bytes of UTF-8.")


def _split_address(scheme: str, address: str) -> tuple[str, list[Host], str]:
    """Split ``user:password@host:port,host:port/path``; a further host may repeat the scheme."""
    users, paths, hosts = set[str](), set[str](), list[Host]()
    for member in re.split(f",{re.escape(scheme)}://", address, flags=re.IGNORECASE):
        authority, slash, path = member.partition("/")
        user_info, _, names = authority.rpartition("@")
        # An unencoded slash in a password ends the authority early, and its "@" turns up in the path.
        if "@" in path or "@" in user_info or "+" in user_info or user_info.count(":") > 1:
            raise DsnError(f"The user, password or path of {scheme}:// is ambiguous. {_ENCODE}")
        users.add(user_info)
        paths.add(slash + path)
        hosts += [_read_host(scheme, unquote(name)) for name in names.split(",") if names]

    if len(users - {""}) > 1 or len(paths - {""}) > 1:
        raise DsnError(f"The hosts of {scheme}:// have different users or paths. Write those once.")
    return max(users), hosts, max(paths)


def _read_host(scheme: str, text: str) -> Host:
    match = _HOST.fullmatch(text)
    if match is None or not 1 <= int(match[3] or 1) <= 65535:
        raise DsnError(
            f"A host of {scheme}:// is not 'name', 'name:port' or '[IPv6]:port' with a port of 1 to 65535. "
            f"Separate hosts by ','. {_ENCODE}"
        )
    return Host(match[1] or match[2], int(match[3]) if match[3] else None)


def _split_query(scheme: str, query: str) -> tuple[list[Host], dict[str, object]]:
    """Split ``name=value&name[key]=value&host[name:port]`` into hosts and options."""
    hosts: list[Host] = []
    options: dict[str, object] = {}
    for item in filter(None, query.split("&")):
        written_name, equals, value = item.partition("=")
        name = unquote(written_name)
        if not equals and name.startswith("host[") and name.endswith("]"):
            hosts.append(_read_host(scheme, name[5:-1]))
            continue
        if not _OPTION_NAME.fullmatch(name):
            raise DsnError(f"An option of {scheme}:// has no proper name. Write 'name=value' or 'name[key]=value'.")
        # Without a "=" this may be the rest of a secret that holds an unencoded "&" or "?".
        if not equals and ("@" in query or _SECRET.search(query)):
            raise DsnError(f"An option of {scheme}:// has no value. Percent-encode '&' in a value as %26.")
        if not equals:
            raise DsnError(f"Option {name!r} of {scheme}:// has no value. Write it as '{name}=value'.")
        if "+" in value and _is_secret(name):
            raise DsnError(f"Option {name!r} of {scheme}:// holds a '+'. Percent-encode a plus sign as %2B.")
        if not _insert(options, name.replace("]", "").split("["), unquote(value)):
            raise DsnError(f"Option {name!r} of {scheme}:// is given twice. Give it once, or a list as 'a[]=1&a[]=2'.")
    return hosts, options


def _insert(options: dict[str, object], keys: list[str], value: str) -> bool:
    """Put a value where its keys lead, an empty key being the next number; return False if that place is taken."""
    *outer, last = keys
    for key in outer:
        inner = options.setdefault(key or str(len(options)), dict[str, object]())
        if not isinstance(inner, dict):
            return False
        options = cast("dict[str, object]", inner)

    last = last or str(len(options))
    if last in options:
        return False
    options[last] = value
    return True


def _is_mapping(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, Mapping)


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, list | tuple)


def _copied(
    value: object, mapping: Callable[[dict[str, object]], object], items: Callable[[list[object]], object]
) -> object:
    """Return a value with every mapping and list in it made anew, as one of those types."""
    if _is_mapping(value):
        return mapping({key: _copied(item, mapping, items) for key, item in value.items()})
    if _is_list(value):
        return items([_copied(item, mapping, items) for item in value])
    return value


def _is_secret(name: str) -> bool:
    """Tell by the name of an option, or of one around it, whether its value must not be shown."""
    return bool(_SECRET.search(name)) or "auth" in re.split(r"[\[\]_]", name.lower())


def _masked(name: str, value: object) -> object:
    """Return what may be shown of an option's value: of an object of unknown type, only that type."""
    if _is_secret(name):
        return "***"
    if _is_mapping(value):
        return {key: _masked(f"{name}[{key}]", item) for key, item in value.items()}
    if _is_list(value):
        return [_masked(name, item) for item in value]
    if isinstance(value, str):
        return re.sub("(?<=//).*@|^(?!.*//).*@", "***@", value, flags=re.DOTALL)
    return value if value is None or isinstance(value, int | float) else f"<{type(value).__name__}>"


def _query_items(name: str, value: object) -> Iterator[str]:
    """Yield ``name=value`` for each value in an option, masked."""
    if _is_list(value):
        value = {str(index): item for index, item in enumerate(value)}
    if not _is_mapping(value) or _is_secret(name):
        yield quote(f"{name}={_masked(name, value)}", safe="=[]/:@*+,<>", errors="replace")
        return
    for key, item in value.items():
        yield from _query_items(f"{name}[{key}]", item)


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """One option as its transport declares it: errors, the command line and the docs take it from here."""

    meaning: str = ""
    unit: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    symfony: str | None = None
    aliases: tuple[str, ...] = ()
    no_effect: bool = False
    # The rest is known once the option has its place in a class.
    name: str = ""
    type: str = "str"
    choices: tuple[str, ...] = ()
    default: object = None

    @property
    def names(self) -> tuple[str, ...]:
        """All names under which the option may be given, its own first."""
        return (self.name, *([self.symfony] if self.symfony else []), *self.aliases)

    @property
    def secret(self) -> bool:
        """Whether the option's value is never shown."""
        return any(map(_is_secret, self.names))

    def shown(self, value: object) -> str:
        """Return a value of this option as people may see it."""
        return "***" if self.secret else repr(_masked(self.name, value))

    def read(self, value: object) -> object:
        """Return a value in the option's type, or None if it is nothing of the kind."""
        match self.type:
            case "str" if isinstance(value, str):
                return value if not self.choices or value in self.choices else None
            case "bool" if isinstance(value, str):
                return _BOOLS.get(value.lower())
            case "bool" if isinstance(value, bool):
                return value
            case "int" | "float" if isinstance(value, str):
                return self.read(_number(value, self.unit))
            case "int" if type(value) is int:
                return value
            case "float" if type(value) is int or isinstance(value, float):
                return float(value)
            case "list of str" | "tuple of str" if _is_mapping(value):
                return self.read([value.get(str(index)) for index in range(len(value))])
            case "list of str" | "tuple of str" if _is_list(value) and all(isinstance(item, str) for item in value):
                return list(value) if self.type == "list of str" else tuple(value)
            case "mapping" if _is_mapping(value):
                return _copied(value, dict, list)
            case "object passed in code" if not isinstance(value, str | Mapping):
                return value
            case _:
                return None

    def problem(self, value: object) -> str | None:
        """Return what is wrong with a value, as "what it must be, got what", or None."""
        read = self.read(value)
        if read is None:
            return f"{self._wanted()}, got {self.shown(value.written if isinstance(value, Expanded) else value)}"
        if isinstance(read, int | float) and self.minimum is not None and read < self.minimum:
            return f"at least {self.minimum}, got {self.shown(read)}"
        if isinstance(read, int | float) and self.maximum is not None and read > self.maximum:
            return f"at most {self.maximum}, got {self.shown(read)}"
        return None

    def _wanted(self) -> str:
        if self.choices:
            return f"one of {', '.join(map(repr, self.choices))}"
        if self.type in ("list of str", "tuple of str"):
            return f"a list, written '{self.name}[]=a&{self.name}[]=b'"
        duration = f" of {self.unit} or a duration such as '90s'" if self.unit in _MILLISECONDS else ""
        return f"{'an' if self.type[0] in 'io' else 'a'} {self.type}{duration}"


def _number(text: str, unit: str | None) -> float | None:
    """Return the number that a text is, if it is one; with a suffix such as "s", as so many of the unit of time."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    if not match[2]:
        return float(text) if "." in text else int(text)
    if unit not in _MILLISECONDS:
        return None
    from fractions import Fraction  # noqa: PLC0415  Few DSNs have a number with a unit.

    number = Fraction(match[1]) * _MILLISECONDS[match[2]] / _MILLISECONDS[unit]
    return int(number) if number.denominator == 1 else float(number)


def _type_of(annotation: Any) -> tuple[str, tuple[str, ...]]:
    """Return the type of a field in words, and its choices if it has some."""
    origin = typing.get_origin(annotation)
    arms = tuple(arm for arm in typing.get_args(annotation) if arm is not NoneType)
    if origin in (Union, UnionType) and len(arms) == 1:
        return _type_of(arms[0])
    if origin is Literal:
        return "str", arms
    if annotation in (str, bool, int, float):
        return annotation.__name__, ()
    if annotation in (list[str], tuple[str, ...]):
        return f"{origin.__name__} of str", ()
    if annotation is dict or origin in (dict, Mapping):
        return "mapping", ()
    if annotation is object:
        return "object passed in code", ()
    raise TypeError(f"An option cannot be of type {annotation!r}. Take one of those that Options lists.")


def option(
    default: T = _NO_DEFAULT,
    meaning: str = "",
    *,
    factory: Callable[[], T] = _NO_DEFAULT,
    unit: str | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    symfony: str | None = None,
    aliases: tuple[str, ...] = (),
    no_effect: bool = False,
) -> T:
    """Declare one option of an `Options` class; a ``factory`` makes its default anew each time.

    A number whose ``unit`` is "seconds" or "milliseconds" may be given as a duration such as "1.5s" or "5m".
    ``symfony`` is the option's name there, if it differs; ``no_effect`` is for what only PHP can use.
    """
    metadata = {"option": OptionInfo(meaning, unit, minimum, maximum, symfony, aliases, no_effect)}
    if default is MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@typing.dataclass_transform(kw_only_default=True, frozen_default=True)
class Options:
    """The options of one transport: a subclass is a frozen dataclass, and each field declares one option.

    A field is a ``str``, ``int``, ``float``, ``bool``, ``Literal`` of strings, ``list[str]``,
    ``tuple[str, ...]``, ``Mapping``, or an ``object`` that only code can pass; or one of these or None::

        class SqlOptions(Options):
            table_name: str = option("messenger_messages", "Table that holds the messages.")
            redeliver_timeout: int = option(3600, "Age at which to deliver again.", unit="seconds", minimum=1)
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclass(frozen=True, kw_only=True, repr=False)(cls)

    def __repr__(self) -> str:
        values = (f"{info.name}={info.shown(getattr(self, info.name))}" for info in self.describe())
        return f"{type(self).__name__}({', '.join(values)})"

    @classmethod
    def describe(cls) -> list[OptionInfo]:
        """Return what the fields declare, in their order."""
        hints = typing.get_type_hints(cls)
        return [_info_of(declared, hints[declared.name]) for declared in fields(cls)]

    @classmethod
    def from_dsn(cls, dsn: Dsn, **positional: object) -> Self:
        """Return the options of a DSN; raise one `DsnError` that names everything that is wrong with them.

        ``positional`` is what the DSN's user part and path say; an option of the same name wins over it.
        None, here or there, means the default.
        """
        declared = cls.describe()
        known = {name for info in declared for name in info.names}
        problems = [_unknown(name, dsn.scheme, declared) for name in dsn.options if name not in known]
        values: dict[str, Any] = {}
        for info in declared:
            given = [name for name in info.names if name in dsn.options]
            if len(given) > 1:
                both = " and ".join(map(repr, given))
                problems.append(f"Options {both} of {dsn.scheme}:// mean the same. Give one of them.")
            name, value = info.name, positional.pop(info.name, None)
            if given:
                name, value = given[0], dsn.options[given[0]]
            if value is None:
                continue
            if problem := info.problem(value):
                problems.append(f"Option {name!r} of {dsn.scheme}:// must be {problem}.")
            values[info.name] = info.read(value)
        if problems:
            raise DsnError(*problems)
        return cls(**values, **positional)

    @classmethod
    def without_effect(cls, dsn: Dsn) -> list[str]:
        """Return the options of a DSN that are accepted, but belong to PHP alone."""
        return [name for info in cls.describe() if info.no_effect for name in info.names if name in dsn.options]


def _info_of(declared: Field[Any], annotation: Any) -> OptionInfo:
    info: OptionInfo = declared.metadata["option"]
    type_name, choices = _type_of(annotation)
    default = declared.default_factory() if declared.default_factory is not MISSING else declared.default
    return replace(info, name=declared.name, type=type_name, choices=choices, default=default)


def _unknown(name: str, scheme: str, declared: Sequence[OptionInfo]) -> str:
    meant = nearest(name, [known for info in declared for known in info.names], cutoff=0.5)
    hint = f" Did you mean {meant!r}?" if meant else ""
    names = ", ".join(info.name for info in declared if not info.no_effect)
    return f"Unknown option {masked(name)!r} for {scheme}://.{hint} Options: {names or 'none'}."
