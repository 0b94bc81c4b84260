"""What a DSN may say, and what is said of one that makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from postbus import Postbus
from postbus.dsn import Dsn
from postbus.errors import ConfigurationError
from postbus_filesystem.options import folder_of


def test_the_path_is_the_folder() -> None:
    """It is absolute; what stands in a DSN percent-encoded is meant as it is decoded."""
    assert Path("/var/spool/big orders") == folder_of(Dsn.parse("filesystem:///var/spool/big%20orders"))


@pytest.mark.parametrize("rest", ["", "/", "host/queue", "me@/queue"])
def test_what_names_no_folder_is_refused(rest: str) -> None:
    """With what to write instead, before anything is connected to."""
    app = Postbus(transports={"orders": f"filesystem://{rest}"})

    with pytest.raises(ConfigurationError, match="Write filesystem:///path/to/the/queue."):
        app.transport("orders")
