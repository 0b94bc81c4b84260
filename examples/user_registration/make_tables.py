"""Makes the table of the users; that of the messages is made by `postbus setup`."""

from __future__ import annotations

from users import Base, engine

Base.metadata.create_all(engine)
