"""Plugins: found by their entry points, asked by the hooks, and turned into transports by the scheme of a DSN."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, metadata, requires
from typing import Any

import pluggy
from msgspec import Struct

from postbus import hookspecs
from postbus.bus import Middleware
from postbus.display import sentence
from postbus.dsn import Dsn, Options
from postbus.errors import ConfigurationError, UnknownScheme, describe
from postbus.events import Observer
from postbus.hookspecs import CONTRACT, TransportFactory
from postbus.serialization import SerializerFactory
from postbus.spelling import nearest
from postbus.transport import Guarantees, Transport, TransportContext

logger = logging.getLogger("postbus")

GROUP = "postbus"


class Plugin(Struct, frozen=True):
    """One plugin that was loaded: its name, and the distribution that brought it."""

    name: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


class Scheme(Struct, frozen=True):
    """What a plugin registered for one scheme."""

    name: str
    plugin: Plugin
    factory: TransportFactory
    options: type[Options] | None
    guarantees: Guarantees


class Problem(Struct, frozen=True):
    """A plugin, or a part of one, that cannot be used, and why. It stops nobody else."""

    plugin: Plugin
    reason: str

    def __str__(self) -> str:
        return f"Plugin {self.plugin.name!r} of {self.plugin} {self.reason}"


class Plugins:
    """The plugins of this process, and what they registered."""

    def __init__(self, found: Iterable[EntryPoint] = (), *, left_out: Iterable[EntryPoint] = ()) -> None:
        """Load what was found; ``left_out`` is installed too, and only named where somebody may miss it."""
        self._left_out = [_plugin(entry_point) for entry_point in left_out]
        self.loaded: list[Plugin] = []
        self.problems: list[Problem] = []
        self.schemes: dict[str, Scheme] = {}
        self.serializers: dict[str, SerializerFactory] = {}
        self.middleware: dict[str, Middleware] = {}
        self.observers: list[Observer] = []
        self._owners: dict[tuple[str, str], Plugin] = {}
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)
        for entry_point in found:
            self._load(entry_point)

    def add(self, module: object, plugin: Plugin) -> None:
        """Take in a plugin that is imported already, and let it register what it has."""
        stated = getattr(module, "CONTRACT", None)
        if stated not in (CONTRACT, CONTRACT - 1):
            self._report(plugin, f"is left out. It {_mismatch(stated)}")
            return
        self._manager.register(module, plugin.name)
        self.loaded.append(plugin)
        for problem in _hooks_never_called(module):
            self._report(plugin, problem)

        def register_transport(
            scheme: str,
            factory: TransportFactory,
            *,
            guarantees: Any,
            options: type[Options] | None = None,
        ) -> None:
            if not isinstance(guarantees, Guarantees):
                raise TypeError(f"the guarantees of {scheme}:// are {guarantees!r}, not Guarantees(...)")
            self._claim(self.schemes, "scheme", scheme, Scheme(scheme, plugin, factory, options, guarantees), plugin)

        self._call(plugin, "register_transports", register=register_transport)
        self._call(plugin, "register_serializers", register=self._registrar(self.serializers, "serializer", plugin))
        self._call(plugin, "register_middleware", register=self._registrar(self.middleware, "middleware", plugin))
        self._call(plugin, "register_observers", register=self.observers.append)

    def add_commands(self, group: Any) -> None:
        """Let every plugin add its commands to the command line."""
        for plugin in self.loaded:
            self._call(plugin, "register_commands", group=group)

    def scheme_for(self, dsn: Dsn) -> Scheme:
        """Return what serves a DSN; raise `UnknownScheme`, which says what to install."""
        scheme = self.schemes.get(dsn.scheme) or self.schemes.get(dsn.scheme.partition("+")[0])
        if scheme is not None:
            return scheme
        meant = nearest(dsn.scheme, self.schemes, cutoff=0.75)
        if meant:
            raise UnknownScheme(f"No plugin serves {dsn.scheme}://. Did you mean {meant}://?")
        package = _package_for(dsn.scheme)
        for plugin in self._left_out:
            if plugin.distribution == package:
                raise UnknownScheme(
                    f"No plugin serves {dsn.scheme}://, as POSTBUS_PLUGINS leaves out {plugin.name!r}. Name it there "
                    "too."
                )
        hint = self._hint_for(dsn.scheme)
        # What is installed, and broken or left out, need not be installed again.
        notes = [str(problem) for problem in self.problems]
        if self._left_out:
            notes.append(f"POSTBUS_PLUGINS leaves out {', '.join(plugin.name for plugin in self._left_out)}.")
        if notes:
            hint = " ".join([f"{sentence(hint)} But note:", *notes])
        raise UnknownScheme(f"No plugin serves {dsn.scheme}://. {hint}")

    def make_transport(
        self, text: str, options: Mapping[str, object], make_context: Callable[[Guarantees], TransportContext]
    ) -> Transport:
        """Return the transport of a DSN; ``options`` win over those in its query.

        ``make_context`` is told what the plugin promised for the scheme.
        """
        dsn = Dsn.parse(text)
        if options:
            dsn = dsn.with_options(options)
        scheme = self.scheme_for(dsn)
        transport: Any = scheme.factory(dsn, make_context(scheme.guarantees))
        if isinstance(transport, Transport):
            return transport
        problem = Problem(
            scheme.plugin,
            f"made a {type(transport).__name__} for {scheme.name}://, which is no transport: that has a name, send and "
            "close. Return a QueueTransport from the factory.",
        )
        self.problems.append(problem)
        raise ConfigurationError(str(problem))

    def _hint_for(self, scheme: str) -> str:
        """Say what to do about a scheme that nothing serves.

        Packages are only named that this project publishes, or that are installed: any other name might be registered
        by anybody.
        """
        for plugin in self.loaded:
            if scheme in keywords_of(plugin.distribution):
                served = " or ".join(f"{name}://" for name, one in self.schemes.items() if one.plugin == plugin)
                return f"Write {served} for {plugin.distribution}."
        package = _package_for(scheme)
        if package is not None:
            return f"Install it: pip install {package}"
        installed = ", ".join(f"{name}://" for name in sorted(self.schemes)) or "none"
        return f"Take one that is served here ({installed}), or install a plugin for it that you trust."

    def _load(self, entry_point: EntryPoint) -> None:
        plugin = _plugin(entry_point)
        try:
            self.add(entry_point.load(), plugin)
        except pluggy.PluginValidationError as error:
            self._report(
                plugin, sentence(f"has a hook that Postbus does not call like that, so it is left out: {error}")
            )
        except (Exception, SystemExit) as error:  # A border: a broken plugin must not take the others down.
            self._report(plugin, sentence(f"could not be imported, so it is left out: {describe(error)}"))

    def _call(self, plugin: Plugin, hook: str, **arguments: Any) -> None:
        others = [other for name, other in self._manager.list_name_plugin() if name != plugin.name]
        try:
            self._manager.subset_hook_caller(hook, others)(**arguments)
        except Exception as error:  # A border, as above.
            self._report(plugin, sentence(f"failed in {hook}: {describe(error)}"))

    def _registrar(self, registered: dict[str, Any], what: str, plugin: Plugin) -> Callable[[str, Any], None]:
        def register(name: str, thing: Any) -> None:
            self._claim(registered, what, name, thing, plugin)

        return register

    def _claim(self, registered: dict[str, Any], what: str, name: str, thing: Any, plugin: Plugin) -> None:
        if name not in registered:
            registered[name] = thing
            self._owners[what, name] = plugin
            return
        owner = self._owners[what, name]
        self._report(plugin, f"registers the {what} {name!r}, which {owner} has registered before. {owner} keeps it.")

    def _report(self, plugin: Plugin, reason: str) -> None:
        problem = Problem(plugin, reason)
        self.problems.append(problem)
        logger.warning("%s", problem)


@cache
def installed_plugins() -> Plugins:
    """Load the installed plugins, once for the process; with POSTBUS_PLUGINS set, only those that it names."""
    found = sorted(entry_points(group=GROUP), key=lambda entry_point: entry_point.name)
    chosen = os.environ.get("POSTBUS_PLUGINS")
    if chosen is None:
        return Plugins(found)
    wanted = {name.strip() for name in chosen.split(",")}
    return Plugins(
        [entry_point for entry_point in found if entry_point.name in wanted],
        left_out=[entry_point for entry_point in found if entry_point.name not in wanted],
    )


def _mismatch(stated: object) -> str:
    """Return why a plugin that states this number is not served."""
    if not isinstance(stated, int):
        return (
            f"does not say which contract it was written for. Put CONTRACT = {CONTRACT} into its module, if for this."
        )
    served = f"{CONTRACT - 1} and {CONTRACT}" if CONTRACT > 1 else str(CONTRACT)
    late = "the plugin" if stated < CONTRACT else "Postbus"
    return f"was written for contract {stated}, and this Postbus serves {served}. Upgrade {late}."


def _hooks_never_called(module: object) -> list[str]:
    """Return a clause for each function that looks like a hook and is none: misspelt, or without its mark."""
    hooks = [name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), f"{GROUP}_spec")]
    problems: list[str] = []
    for name, function in vars(module).items():
        function = getattr(function, "__func__", function)
        if not inspect.isfunction(function) or name.startswith("_"):
            continue
        is_marked = hasattr(function, f"{GROUP}_impl")
        meant = nearest(name, hooks, cutoff=0.6 if is_marked else 0.9)
        if is_marked and name not in hooks:
            hint = f" Did you mean {meant!r}?" if meant else f" Hooks: {', '.join(hooks)}."
            problems.append(f"has the hook {name!r}, which Postbus never calls.{hint}")
        elif not is_marked and meant:
            problems.append(f"has a function {name!r} without @hookimpl, so Postbus never calls it. Mark {meant!r}.")
    return problems


def _plugin(entry_point: EntryPoint) -> Plugin:
    distribution = entry_point.dist
    if distribution is None:
        return Plugin(entry_point.name, entry_point.module, "?")
    return Plugin(entry_point.name, distribution.name, distribution.version)


def keywords_of(distribution: str) -> Collection[str]:
    """Return the keywords of an installed distribution, which say what else its broker is called."""
    try:
        lines: list[str] = metadata(distribution).get_all("Keywords", [])
    except PackageNotFoundError:
        return ()
    return [keyword for line in lines for keyword in line.split(",")]


def _package_for(scheme: str) -> str | None:
    """Return the package for a scheme: the extras of this distribution are named after those that are known to it."""
    family = scheme.partition("+")[0]
    try:
        wanted = requires("postbus") or []
    except PackageNotFoundError:
        wanted = []
    names = {family, family.removesuffix("s")}
    extras = {f"extra == {quote}{name}{quote}" for name in names for quote in "'\""}
    parts = [requirement.partition(";") for requirement in wanted]
    found = {package.strip() for package, _, marker in parts if marker.strip() in extras}
    # What brings several packages is not named after a scheme.
    return found.pop() if len(found) == 1 and all(package.startswith("postbus-") for package in found) else None
