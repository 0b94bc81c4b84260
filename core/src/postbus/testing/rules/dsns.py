"""A DSN is read strictly, and what is secret in it stays so."""

from __future__ import annotations

import logging
import re
import traceback

import pytest

from postbus.dsn import Dsn, OptionInfo
from postbus.errors import DsnError, PostbusError
from postbus.testing.promises import promise
from postbus.testing.subject import Subject
from postbus.testing.workbench import Workbench, with_options
from postbus.transport import Outgoing

SECRET = "s3cr3t-0198"  # noqa: S105


class Dsns(Workbench):
    """A DSN is read strictly, and what is secret in it stays so."""

    @promise("dsns-1", since="0.1")
    def test_an_unknown_option_is_refused_with_the_nearest_name(self) -> None:
        """A misspelt option raises `DsnError`, which names it and the one that was meant."""
        meant = next(iter(self._options()), None)
        misspelt = meant.name[:-1] + "_" if meant else "no_such_option"

        with pytest.raises(DsnError) as caught:
            Subject(with_options(self.queue, {misspelt: "1"}), self.plugin).make_transport()

        assert misspelt in str(caught.value)
        assert meant is None or repr(meant.name) in str(caught.value)

    @promise("dsns-2", since="0.1")
    def test_an_option_of_a_wrong_type_is_refused(self) -> None:
        """An option that wants a number, or true or false, raises `DsnError` for anything else, which names it."""
        strict = [info for info in self._options() if info.type in ("int", "float", "bool") and not info.no_effect]
        if not strict:
            pytest.skip("No option wants a number, or true or false.")

        for info in strict:
            with pytest.raises(DsnError, match=f"'{info.name}'"):
                Subject(with_options(self.queue, {info.name: "many"}), self.plugin).make_transport()

    @promise("dsns-3", since="0.1")
    def test_a_secret_is_never_shown(self, caplog: pytest.LogCaptureFixture) -> None:
        """A password is in no text, error or log of DSN, transport and connection, accepted or refused."""
        caplog.set_level(logging.DEBUG)
        secret_options = {info.name: SECRET for info in self._options() if info.secret and info.type == "str"}
        dsn = with_options(re.sub(r"^([^:]+://)(?:[^/?]*@)?", rf"\1contract:{SECRET}@", self.queue), secret_options)
        shown: list[object] = [repr(Dsn.parse(dsn))]

        try:
            transport = Subject(dsn, self.plugin).make_transport()
            self._transports.append(transport)
            shown += [str(transport), repr(transport)]
            connection = transport.connection
            shown += [str(connection), repr(connection)]
            connection.publish([Outgoing(b"message", {})])
        except PostbusError as error:
            shown += [*traceback.format_exception(error), repr(error)]

        assert SECRET not in "\n".join(map(str, shown)) + caplog.text

    def _options(self) -> list[OptionInfo]:
        options = self.subject().scheme().options
        if options is None:
            pytest.skip("The plugin registers no options.")
        return options.describe()
