"""Use a package that was installed from its wheel, with nothing else but what the wheel declares.

Run in that environment, as `python -I use_installed.py postbus-sql`. A module that needs an undeclared
dependency fails to be imported here.
"""

import importlib
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from postbus import ConfigurationError, Postbus
from postbus.plugins import installed_plugins


@dataclass(frozen=True)
class Greeting:
    name: str


def import_every_module(distribution: str) -> None:
    """Import what the wheel brought; `postbus.testing` has an extra of its own, and so may modules of a plugin."""
    extras = [line for line in metadata.requires(distribution) or () if "extra ==" in line]
    optional = {re.split(r"[^\w.-]", line)[0].lower() for line in extras}
    package = importlib.import_module(distribution.replace("-", "_"))
    folder = Path(package.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        module = ".".join([package.__name__, *path.relative_to(folder).with_suffix("").parts])
        if not module.startswith("postbus.testing") and path.stem != "__main__":
            try:
                importlib.import_module(module.removesuffix(".__init__"))
            except ModuleNotFoundError as error:
                if error.name not in optional:
                    raise


def dispatch_in_process() -> None:
    """Dispatch a message that no transport is needed for."""
    greeted = []
    app = Postbus()

    @app.handler
    def greet(greeting: Greeting) -> None:
        greeted.append(greeting.name)

    app.dispatch(Greeting("Ada"))
    assert greeted == ["Ada"], greeted


def make_each_transport(distribution: str) -> list[str]:
    """Make a transport of each scheme that the plugin serves, and return the schemes; none for the core.

    A factory imports its client library; a connection is made at the first use, so no broker is needed. What
    the plugin itself has against this DSN does not matter, nor that it wants one of its extras for it.
    """
    plugins = installed_plugins()
    assert not plugins.problems, plugins.problems
    assert distribution in ["postbus", *(plugin.distribution for plugin in plugins.loaded)], plugins.loaded
    schemes = [scheme.name for scheme in plugins.schemes.values() if scheme.plugin.distribution == distribution]
    for scheme in schemes:
        with suppress(ConfigurationError):
            Postbus(transports={"messages": f"{scheme}:///wheel"}).transports["messages"].close()
    return schemes


def what_a_missing_plugin_is_told() -> str:
    """Ask for a scheme that nothing serves, and return the error's text."""
    try:
        Postbus(transports={"messages": "amqp://localhost"})
    except ConfigurationError as error:
        return str(error)
    return "No error, although no plugin for amqp:// is installed."


def main(distribution: str) -> None:
    """Use the package, and say what was used."""
    import_every_module(distribution)
    dispatch_in_process()
    schemes = make_each_transport(distribution)
    if "amqp" not in schemes:
        told = what_a_missing_plugin_is_told()
        assert told == "transports.messages: No plugin serves amqp://. Install it: pip install postbus-amqp", told
    served = f", serves {', '.join(schemes)}" if schemes else ""
    print(f"{distribution} {metadata.version(distribution)}: imported, dispatches{served}")


if __name__ == "__main__":
    main(sys.argv[1])
