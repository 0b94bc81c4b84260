"""Configuration: a TOML file, or the arguments of the app, checked and with the environment filled in.

Both have the same structure. Every mistake is found before any is reported, and each is named by its key.
"""

from __future__ import annotations

import builtins
import codecs
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeGuard, TypeVar, cast

from msgspec import Struct, field

from postbus.bus import Middleware
from postbus.display import sentence
from postbus.dsn import Dsn, Expanded, masked, shown_options
from postbus.errors import ConfigurationError, DsnError, PostbusError, describe, real_name
from postbus.handlers import Handlers
from postbus.retry import Backoff, RetryPolicy, is_exception
from postbus.routing import Route
from postbus.serialization import Serializer, SerializerFactory
from postbus.spelling import nearest
from postbus.transport import Transport
from postbus.worker.kill_switch import KillSwitch

T = TypeVar("T")
N = TypeVar("N", Backoff, KillSwitch)

ENVIRONMENT_DSN = "POSTBUS_TRANSPORT_DSN"
FILES = ("postbus.toml", "pyproject.toml")
"""The files that are looked for, the first first."""
ENVIRONMENT_TRANSPORT = "async"
"""What the transport is called that the environment variable alone configures."""


class TransportConfig(Struct, frozen=True, kw_only=True):
    """One transport: where it is, how it is set up, and what becomes of messages that fail there."""

    dsn: str
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    serializer: str | Serializer | SerializerFactory = "json"
    """``json``, a name that a plugin registers, or ``module:attribute``; in code a serializer, or what makes one."""
    verify: bool = True
    """Whether a message is checked, when it is sent, to be read as what it is."""
    retry: RetryPolicy | None = None
    failure_transport: str | None = None
    rate_limit: str | None = None
    """How many of its messages workers handle in a time, such as ``100/second``."""
    rate_limit_store: str = "memory://"
    """Where that is counted, for the `limits` library; by default in each process by itself."""
    kill_switch: KillSwitch | None = None
    """Whether and when workers pause it, because its messages fail."""

    def __repr__(self) -> str:
        return f"TransportConfig({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return the fields as people may see them: without their secrets."""
        shown = {
            "dsn": _shown_dsn(self.dsn),
            "options": shown_options(self.options),
            "rate_limit_store": masked(self.rate_limit_store),
        }
        return [(name, shown.get(name, getattr(self, name))) for name in self.__struct_fields__]


class BusConfig(Struct, frozen=True, kw_only=True):
    """One bus: the user's middleware, and whether a message must have a handler, or a route."""

    middleware: Sequence[str | Middleware] = ()
    default_middleware: bool = True
    """Whether the built-in ones stand around these; else these are all, the built-in ones among them that are named."""
    allow_no_handlers: bool = False
    allow_no_senders: bool = True


class Config(Struct, frozen=True, kw_only=True):
    """Everything that can be configured, checked."""

    name: str | None = None
    """What the app is called among others; see `Postbus.name`."""
    app: str | None = None
    transports: Mapping[str, TransportConfig | Transport] = field(
        default_factory=dict[str, TransportConfig | Transport]
    )
    routing: Mapping[Route, Sequence[str]] = field(default_factory=dict[Route, Sequence[str]])
    buses: Mapping[str, BusConfig] = field(default_factory=lambda: {"default": BusConfig()})
    default_bus: str = "default"
    failure_transport: str | None = None
    control: str | None = None
    """The control store: the transport beside whose messages lie the notes for workers; see `postbus.control`."""
    retry: RetryPolicy = field(default_factory=Backoff)
    handlers: Sequence[str | Handlers] = ()


def find_file(folder: Path | None = None) -> Path | None:
    """Return a folder's ``postbus.toml``, or its ``pyproject.toml`` if that has ``[tool.postbus]``."""
    folder = folder or Path.cwd()
    own, pyproject = (folder / name for name in FILES)
    if own.is_file():
        return own
    return pyproject if pyproject.is_file() and _table(pyproject) is not None else None


def read_file(path: Path) -> Mapping[str, object]:
    """Return what a configuration file holds, unchecked."""
    return _table(path) or {}


def check(given: Mapping[str, object], environment: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration that a mapping holds; raise `ConfigurationError` with all mistakes in it."""
    reader = _Reader(environment)
    given = cast(Mapping[str, object], reader.expand("", given))
    reader.known("", given, Config.__struct_fields__)

    transports: dict[str, TransportConfig | Transport] = reader.table(
        "transports", given.get("transports", {}), reader.transport
    )
    routing = reader.routing(given.get("routing", {}))
    if not transports and environment.get(ENVIRONMENT_DSN):
        transports = {ENVIRONMENT_TRANSPORT: TransportConfig(dsn=environment[ENVIRONMENT_DSN])}
        routing = routing or {"*": [ENVIRONMENT_TRANSPORT]}
    buses = reader.table("buses", given.get("buses", {}), reader.bus) or {"default": BusConfig()}
    default_bus = reader.text("default_bus", given.get("default_bus")) or next(iter(buses))
    if len(buses) > 1 and not given.get("default_bus"):
        reader.problem("default_bus", "is missing", f"Name one of the buses: {', '.join(buses)}")
    config = Config(
        name=reader.text("name", given.get("name")) or None,
        app=reader.text("app", given.get("app")),
        transports=transports,
        routing=routing,
        buses=buses,
        default_bus=default_bus,
        failure_transport=reader.text("failure_transport", given.get("failure_transport")),
        control=reader.text("control", given.get("control")),
        retry=reader.retry("retry", given.get("retry")) or Backoff(),
        handlers=reader.handlers(given.get("handlers", ())),
    )
    named = given.get("transports")
    reader.cross_check(config, list(named) if _is_mapping(named) and named else list(transports))
    if reader.problems:
        raise ConfigurationError(*reader.problems)
    return config


def load_object(reference: str, key: str) -> Any:
    """Return what ``module:attribute`` names; raise `ConfigurationError` naming the key that it was used for."""
    module_name, colon, path = reference.partition(":")
    if not _is_dotted(module_name) or not _is_dotted(path) or module_name.endswith(".py"):
        meant = f"{_module_of(module_name)}:{path or 'app'}"
        before, dot, last = module_name.rpartition(".")
        if not colon and dot and _nearest_module(module_name) != module_name and _nearest_module(before) == before:
            meant = f"{before}:{last}"
        hint = f" Did you mean {meant!r}?" if all(map(_is_dotted, meant.split(":"))) else ""
        raise ConfigurationError(f"{key} must be written 'module:attribute', got {masked(reference)!r}.{hint}")
    found: Any = load_module(module_name, key)
    for name in path.split("."):
        if not hasattr(found, name):
            known = nearest(name, dir(found))
            hint = f" Did you mean {known!r}?" if known else ""
            raise ConfigurationError(f"{key} names {reference!r}, but {module_name!r} has no {path!r}.{hint}")
        found = getattr(found, name)
    return found


def _is_dotted(text: str) -> bool:
    return all(name.isidentifier() for name in text.split("."))


def _module_of(path: str) -> str:
    """Return the name of a module that was written as the path of its file."""
    return path.removeprefix("./").removesuffix(".py").replace("/", ".").replace("\\", ".")


def load_module(name: str, key: str) -> Any:
    """Return an imported module; raise `ConfigurationError` if there is none of that name."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # It exists, and misses something itself: the traceback is the answer.
        meant = _nearest_module(name)
        hint = f" Did you mean {meant!r}?" if meant else ""
        raise ConfigurationError(
            f"{key} names the module {masked(name)!r}, which is neither in {Path.cwd()} nor elsewhere on the Python "
            f"path.{hint}"
        ) from None


def _nearest_module(name: str) -> str | None:
    """Return the module in the first folder of the path that may have been meant; nothing is imported for that."""
    from pkgutil import iter_modules  # noqa: PLC0415  Who makes no mistake need not wait for it.

    found: list[str] = []
    folders = sys.path[:1]
    for part in name.split("."):
        names = [module.name for module in iter_modules(folders)]
        meant = part if part in names else nearest(part, names)
        if meant is None:
            break
        found.append(meant)
        folders = [str(Path(folder, meant)) for folder in folders]
    return ".".join(found) or None


AUTO = "auto"
"""In place of a module with handlers: all modules below the package of the app's module."""


def load_package(name: str, *, leave_out: str) -> None:
    """Import all modules below a package, but for programs, tests and the one to be left out, in the order of names.

    Raises `ConfigurationError` naming the module that cannot be imported.
    """
    from pkgutil import iter_modules  # noqa: PLC0415  Few apps need it.

    package = sys.modules[name]
    for found in sorted(iter_modules(package.__path__, f"{name}."), key=lambda found: found.name):
        last = found.name.rpartition(".")[2]
        if found.name == leave_out or last in ("__main__", "conftest", "tests") or last.startswith("test_"):
            continue
        try:
            import_module(found.name)
        except PostbusError:
            raise
        except (Exception, SystemExit) as error:  # A border: a module of the user's may raise anything.
            raise ConfigurationError(
                f"handlers = {AUTO!r} imports {found.name!r}, which failed: {sentence(describe(error))} Mend that, or "
                "list the modules with handlers by name."
            ) from error
        if found.ispkg:
            load_package(found.name, leave_out=leave_out)


def _module_in(name: str) -> tuple[ModuleType | None, list[str]]:
    """Return the module that a dotted name begins with, and the names in it that follow; None if there is none."""
    parts = name.split(".")
    main = sys.modules.get("__main__")
    for end in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:end])
        if main is not None and real_name(main) == module_name:  # Imported as well, all its classes were there twice.
            return main, parts[end:]
        try:
            return import_module(module_name), parts[end:]
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
    return None, parts


class _Reader:
    """Reads parts of the configuration, and notes what is wrong with them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.problems: list[str] = []

    def problem(self, key: str, fact: str, remedy: str) -> None:
        self.problems.append(f"{key} {fact}. {remedy}{'?' if remedy.startswith('Did you mean') else '.'}")

    def wrong(self, key: str, wanted: str, got: str) -> None:
        self.problems.append(f"{key} must be {wanted}, got {got}.")

    def expand(self, key: str, value: object) -> object:
        """Return a value with every ``${NAME}`` and ``${NAME:-default}`` filled in, at any depth."""
        if isinstance(value, str):
            expanded = re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", lambda match: self._variable(key, match), value)
            return value if expanded == value else Expanded(expanded, value)
        if _is_mapping(value):
            return {name: self.expand(f"{key}.{_show(name)}".lstrip("."), item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            items = cast(Iterable[object], value)
            return [self.expand(f"{key}[{index}]", item) for index, item in enumerate(items)]
        return value

    def _variable(self, key: str, match: re.Match[str]) -> str:
        name, default = match.groups()
        found = self._environment.get(name) or default
        if found is None:
            fact = "is empty" if name in self._environment else "is not set"
            self.problem(
                key, f"uses ${{{name}}}, which {fact} in the environment", f"Set it, or write ${{{name}:-default}}"
            )
            return match[0]
        return found

    def known(self, key: str, given: Mapping[str, object], names: Sequence[str]) -> None:
        for name in given:
            if name not in names:
                meant = nearest(str(name), names)
                hint = f"Did you mean {meant!r}" if meant else f"Keys: {', '.join(names)}"
                if key and name in Config.__struct_fields__:
                    hint = _above(name, key)
                self.problem(f"{key}.{_show(name)}".lstrip("."), "is no key of the configuration", hint)

    def typed(self, key: str, value: object, type: type | tuple[type, ...], wanted: str) -> bool:
        """Say whether a value has a type, None not being one; note it if not."""
        if isinstance(value, type):
            return True
        if value is not None:
            self.wrong(key, wanted, _show_value(key, value))
        return False

    def text(self, key: str, value: object) -> str | None:
        return cast(str, value) if self.typed(key, value, str, "a string") else None

    def flag(self, key: str, value: object, default: bool) -> bool:
        return bool(value) if self.typed(key, value, bool, "true or false") else default

    def table(self, key: str, value: object, read: Callable[[str, object], T | None]) -> dict[str, T]:
        """Read each entry of a table by itself; those that cannot be read are left out."""
        if not _is_mapping(value):
            self.wrong(key, "a table", _show_value(key, value))
            return {}
        for name in value:
            if ":/" in str(name):  # As a name, it would be in every line of the log.
                self.problem(
                    f"{key}.{_show(name)}", "is a DSN and no name", "Write a name there, and the DSN behind it"
                )
        entries = {name: read(f"{key}.{_show(name)}", entry) for name, entry in value.items()}
        return {name: entry for name, entry in entries.items() if entry is not None}

    def names(self, key: str, value: object) -> list[str]:
        """Return a name, or a list of names, as a list."""
        kind = type(value).__name__
        if isinstance(value, str):
            return [value]
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in cast(Iterable[object], value)):
            return list(cast(Iterable[str], value))
        self.wrong(key, "a name or a list of names", f"a {kind}")
        return []

    def transport(self, key: str, value: object) -> TransportConfig | Transport | None:
        name = key.rpartition(".")[2]
        if name in Config.__struct_fields__ and not _is_mapping(value) and ":/" not in str(value):
            self.problem(key, "is no transport", _above(name, "transports"))
            return None
        if isinstance(value, str):
            return TransportConfig(dsn=value)
        if isinstance(value, TransportConfig) or hasattr(value, "send"):
            return cast("TransportConfig | Transport", value)
        if not _is_mapping(value):
            self.wrong(key, "a DSN or a table with 'dsn'", _show_value(key, value))
            return None
        known = TransportConfig.__struct_fields__
        misnamed = [name for name, item in value.items() if name not in known and ":/" in str(item)]
        if "dsn" not in value and misnamed:
            self.problem(f"{key}.{_show(misnamed[0])}", "is no key of the configuration", "Did you mean 'dsn'")
            return None
        self.known(key, value, known)
        dsn = self.text(f"{key}.dsn", value.get("dsn"))
        if dsn is None:
            if "dsn" not in value:
                self.problem(f"{key}.dsn", "is missing", "Give a DSN such as redis://localhost:6379/messages")
            return None
        options = value.get("options", {})
        self.typed(f"{key}.options", options, Mapping, "a table")
        serializer = value.get("serializer", "json")
        return TransportConfig(
            dsn=dsn,
            options=options if _is_mapping(options) else {},
            serializer=cast(Any, serializer),
            verify=self.flag(f"{key}.verify", value.get("verify"), True),
            retry=self.retry(f"{key}.retry", value.get("retry")),
            failure_transport=self.text(f"{key}.failure_transport", value.get("failure_transport")),
            rate_limit=self.text(f"{key}.rate_limit", value.get("rate_limit")),
            rate_limit_store=self.text(f"{key}.rate_limit_store", value.get("rate_limit_store")) or "memory://",
            kill_switch=self.kill_switch(f"{key}.kill_switch", value.get("kill_switch")),
        )

    def kill_switch(self, key: str, value: object) -> KillSwitch | None:
        if value is None or value is False:
            return None
        if isinstance(value, KillSwitch):
            return value
        if value is not True and not _is_mapping(value):
            self.wrong(key, "true, false or a table", _show_value(key, value))
            return None
        options: Mapping[str, object] = value if _is_mapping(value) else {}
        return self.numbers(key, options, KillSwitch, whole=("min_messages",))

    def retry(self, key: str, value: object) -> RetryPolicy | None:
        if value is None or hasattr(value, "next_delay"):
            return cast("RetryPolicy | None", value)
        if not _is_mapping(value):
            self.wrong(key, "a table or a RetryPolicy", _show_value(key, value))
            return None
        errors = self.errors(f"{key}.errors", value.get("errors", {}))
        return self.numbers(key, value, Backoff, whole=("max_retries", "immediate"), errors=errors)

    def numbers(
        self, key: str, value: Mapping[str, object], kind: type[N], *, whole: Sequence[str], **rest: Any
    ) -> N | None:
        """Return what a table of numbers makes; ``whole`` have no fraction, and ``rest`` was read before."""
        self.known(key, value, kind.__struct_fields__)
        options: dict[str, Any] = {
            name: number
            for name, number in value.items()
            if name in kind.__struct_fields__
            and name not in rest
            and self.typed(f"{key}.{name}", number, int if name in whole else (int, float), "a number")
        }
        try:
            return kind(**options, **rest)
        except ConfigurationError as error:
            self.problems += [f"{key}: {problem}" for problem in error.problems]
            return None

    def errors(self, key: str, value: object) -> dict[type[Exception], RetryPolicy | Literal["never"]]:
        """Return the policies for some errors by their classes, which a file names."""
        policies: dict[Any, RetryPolicy | Literal["never"]] = self.table(key, value, self.policy)
        kinds = {name: self.exception(f"{key}.{_show(name)}", name) for name in policies}
        return {kind: policies[name] for name, kind in kinds.items() if kind is not None}

    def policy(self, key: str, value: object) -> RetryPolicy | Literal["never"] | None:
        if value == "never":
            return "never"
        if _is_mapping(value) or hasattr(value, "next_delay"):
            return self.retry(key, value)
        self.wrong(key, "a table, a RetryPolicy or 'never'", _show_value(key, value))
        return None

    def exception(self, key: str, name: object) -> type[Exception] | None:
        """Return the class of errors that this is, or that a dotted name names; one without a dot is built in."""
        found = self._named(key, name) if isinstance(name, str) else name
        if found is not None and not is_exception(found):
            self.problem(key, "is no class of errors", "Write one that is an Exception, or a subclass of one")
            return None
        return cast("type[Exception] | None", found)

    def _named(self, key: str, name: str) -> object:
        whole = "Write its whole name, in quotes, such as 'package.module.Name'"
        if not all(part.isidentifier() for part in name.split(".")):
            self.problem(key, "is no name of a class", whole)
            return None
        if "." not in name:
            if not hasattr(builtins, name):
                self.problem(key, "is not built into Python", whole)
            return getattr(builtins, name, None)
        try:
            module, path = _module_in(name)
        except ImportError as error:
            self.problem(key, f"cannot be looked up: {error}", "Mend that, or give the class itself, in code")
            return None
        if module is None:
            self.problem(key, "names no module that is found on the Python path", whole)
            return None
        found: Any = module
        for part in path:
            if not hasattr(found, part):
                meant = nearest(part, dir(found))
                hint = f"Did you mean {meant!r}" if meant else "Define it above the app, or in another module"
                self.problem(key, f"cannot be found: {found.__name__!r} has no {part!r}", hint)
                return None
            found = getattr(found, part)
        return found

    def bus(self, key: str, value: object) -> BusConfig | None:
        if isinstance(value, BusConfig):
            return value
        if not _is_mapping(value):
            self.wrong(key, "a table", _show_value(key, value))
            return None
        self.known(key, value, BusConfig.__struct_fields__)
        middleware = value.get("middleware", ())
        if not isinstance(middleware, list | tuple):
            self.wrong(f"{key}.middleware", "a list", f"a {type(middleware).__name__}")
            middleware = ()
        return BusConfig(
            middleware=tuple(cast(Iterable[Any], middleware)),
            default_middleware=self.flag(f"{key}.default_middleware", value.get("default_middleware"), True),
            allow_no_handlers=self.flag(f"{key}.allow_no_handlers", value.get("allow_no_handlers"), False),
            allow_no_senders=self.flag(f"{key}.allow_no_senders", value.get("allow_no_senders"), True),
        )

    def routing(self, value: object) -> dict[Route, Sequence[str]]:
        if not _is_mapping(value):
            self.wrong("routing", "a table", _show_value("routing", value))
            return {}
        routes: dict[Route, Sequence[str]] = {}
        for route, names in cast(Mapping[Any, object], value).items():
            key = f"routing.{_show(route)}"
            if route in Config.__struct_fields__:
                self.problem(key, "is no route", _above(route, "routing"))
                continue
            if _is_mapping(names):
                self.problem(key, "is a table", f"Put the whole route in quotes: {_dotted(route, names)!r}")
                continue
            if (isinstance(route, str) and "*" in route.removesuffix("*").removesuffix(".")) or route in ("", ".*"):
                self.problem(key, "is no route", "Write a class, 'package.module.*', or '*'")
            elif not isinstance(route, str | type) or ":/" in str(route):
                self.problem(key, "is no route", "Write a class, its dotted name, 'package.module.*', or '*'")
            routes[route] = self.names(key, names)
        return routes

    def handlers(self, value: object) -> list[str | Handlers]:
        items = [value] if isinstance(value, str | Handlers) else value
        if isinstance(items, list | tuple):
            entries = list(cast(Iterable[object], items))
            if all(isinstance(entry, str | Handlers) for entry in entries):
                return cast("list[str | Handlers]", entries)
        self.wrong(
            "handlers", "'auto', or a list of modules, of 'module:group', or of groups", _show_value("handlers", value)
        )
        return []

    def cross_check(self, config: Config, transports: Sequence[str]) -> None:
        """Note every name that is used and not defined; ``transports`` are those with mistakes in them too."""
        used = {f"routing.{_show(route)}": names for route, names in config.routing.items()}
        used["failure_transport"] = [config.failure_transport] if config.failure_transport else []
        used["control"] = [config.control] if config.control else []
        for name, transport in config.transports.items():
            own = transport.failure_transport if isinstance(transport, TransportConfig) else None
            used[f"transports.{_show(name)}.failure_transport"] = [own] if own else []
        for key, names in used.items():
            for name in names:
                self._defined(key, name, "transport", transports)
        self._defined("default_bus", config.default_bus, "bus", list(config.buses))

    def _defined(self, key: str, name: str, what: str, known: Sequence[str]) -> None:
        if name in known:
            return
        meant = nearest(name, known)
        there_are = f"{what.capitalize()}s: {', '.join(map(masked, known))}" if known else f"Configure it as a {what}"
        self.problem(
            key,
            f"names the {what} {masked(name)!r}, which is not configured",
            f"Did you mean {masked(meant)!r}" if meant else there_are,
        )


def _table(path: Path) -> Mapping[str, object] | None:
    import tomllib  # noqa: PLC0415  Who configures an app in code has no file.

    try:
        document: dict[str, Any] = tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        remedy = " Put quotes around what is a text." if "Invalid value" in str(error) else " Mend that line."
        raise ConfigurationError(f"{path} is not TOML: {sentence(str(error))}{remedy}") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from None
    if path.name != "pyproject.toml":
        return document
    tool = document.get("tool")
    table = tool.get("postbus") if _is_mapping(tool) else None
    if table is None or _is_mapping(table):
        return table
    raise ConfigurationError(
        f"tool.postbus in {path} must be a table, got a {type(table).__name__}. Write [tool.postbus]."
    )


def _text(path: Path) -> str:
    """Return what a file of TOML holds; a mark in front of it, as editors of Windows make it, is no part."""
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        raise ConfigurationError(f"{path} is written in UTF-16, which TOML is not. Save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path} is not UTF-8, as TOML must be: see line {line}. Save it as UTF-8.") from None


def _above(name: object, table: str) -> str:
    return f"Move {name} to the top of the file, above [{table}]"


def _dotted(first: object, names: Mapping[str, object]) -> str:
    """Return the name that TOML takes for tables in tables, as it was written."""
    parts, inner = [str(first)], cast(object, names)
    while _is_mapping(inner) and inner:
        part, inner = next(iter(inner.items()))
        parts.append(str(part))
    return ".".join(parts)


def _is_mapping(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, Mapping)


def _show(name: object) -> str:
    return name.__qualname__ if isinstance(name, type) else masked(str(name))


_SECRETIVE = (".dsn", ".options", ".rate_limit_store")
"""The ends of keys under which any text, and any number, may be a secret."""


def _show_value(key: str, value: object) -> str:
    if key.endswith(_SECRETIVE) or not isinstance(value, str | int | float):
        return f"a {type(value).__name__}"
    return repr(masked(value) if isinstance(value, str) else value)


def _shown_dsn(text: str) -> str:
    try:
        return str(Dsn.parse(text))
    except DsnError:
        return "***"
