"""Makes the table of the reports; that of the messages is made by `postbus setup`."""

from __future__ import annotations

from reports import Base, engine

Base.metadata.create_all(engine)
