"""The statements, in SQL that SQLite, PostgreSQL and MariaDB share but for what the dialect fills in."""

# ruff: noqa: S608  (The name of the table is quoted, and all else in these statements is our own.)

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

_NAME = re.compile(r"(?<!:):([a-z]+)")


class Statement(str):
    """SQL as a driver takes it, and the names of what stands for its place holders, in their order.

    ``{ids}``, at the end of some, is left open for as many ids as there are.
    """

    __slots__ = ("names",)
    names: tuple[str, ...]

    def __new__(cls, text: str, place_holder: str, table: str) -> Statement:
        """Make it of SQL that says ``:name`` where a value belongs, and ``{table}``."""
        statement = super().__new__(cls, _NAME.sub(place_holder, text).replace("{table}", table))
        statement.names = tuple(_NAME.findall(text))
        return statement

    def without(self, ending: str) -> Statement:
        """Return the same without what it ends with."""
        shorter = super().__new__(type(self), self.removesuffix(ending))
        shorter.names = self.names
        return shorter


class Language(Protocol):
    """What a dialect fills in; see `postbus_sql.dialects.Dialect`, which says what each is."""

    purging: str

    @property
    def pieces(self) -> Mapping[str, str]: ...
    def statement(self, text: str, table: str) -> Statement: ...
    def as_bytes(self, column: str) -> str: ...
    def until(self, time: str) -> str: ...
    def claiming(self, chosen: str) -> str: ...


class Statements:
    """What is said to one table.

    Each transaction of ours begins with a statement that writes, and each search is served by an index
    of `schema`: rows in flight lie apart from those at rest, so that neither is in the other's way.
    """

    def __init__(self, table: str, dialect: Language) -> None:
        pieces = {
            "{content}": f"{dialect.as_bytes('body')}, {dialect.as_bytes('headers')}",
            "{available}": dialect.until("available_at"),
            "{delivered}": dialect.until("delivered_at"),
            "{oldest}": dialect.until("MIN(available_at)"),
            "{named}": "",
            **dialect.pieces,
        }

        def sql(text: str) -> Statement:
            for name, piece in pieces.items():
                text = text.replace(name, piece)
            return dialect.statement(text, table)

        self.next_due = sql(
            "SELECT"
            " (SELECT {available} FROM {table} WHERE queue_name = :queue AND delivered_at IS NULL"
            " ORDER BY available_at LIMIT 1),"
            " (SELECT {delivered} FROM {table} WHERE queue_name = :queue AND {held}"
            " ORDER BY delivered_at LIMIT 1)"
        )
        self.claim_waiting = sql(
            dialect.claiming(
                "SELECT id FROM {table} WHERE queue_name = :queue AND delivered_at IS NULL AND available_at <= {now}"
                " ORDER BY available_at, id LIMIT :limit"
            )
        )
        self.claim_expired = sql(
            dialect.claiming(
                "SELECT id FROM {table} WHERE queue_name = :queue AND delivered_at < {edge}"
                " ORDER BY delivered_at, available_at, id LIMIT :limit"
            )
        )
        self.set_headers = sql("UPDATE {table} SET headers = :headers WHERE id = :id")

        # A delivery is known by its id and by when it was claimed: a lease that was lost matches no row.
        held = "WHERE delivered_at = {since} AND id IN ({ids})"
        self.hold = sql(f"SELECT id, {{moment}} FROM {{table}}{{named}} {held} FOR UPDATE")
        self.delete_leased = sql(f"DELETE FROM {{table}} {held}{{returning}}")
        self.release = sql(f"UPDATE {{table}} SET delivered_at = NULL {held}{{returning}}")
        self.extend = sql(f"UPDATE {{table}} SET delivered_at = {{renewed}} {held}{{extended}}")
        self.mark_claimed = sql("UPDATE {table} SET delivered_at = {moved} WHERE id IN ({ids})")

        of_queue = "COUNT(*), {oldest} FROM {table} WHERE queue_name = :queue AND"
        self.count = sql(
            f"SELECT 'waiting', {of_queue} delivered_at IS NULL AND available_at <= {{now}}"
            f" UNION ALL SELECT 'expired', {of_queue} delivered_at < {{edge}}"
            f" UNION ALL SELECT 'delayed', {of_queue} delivered_at IS NULL AND available_at > {{now}}"
            f" UNION ALL SELECT 'in flight', {of_queue} delivered_at >= {{edge}}{{alive}}"
        )
        self.browse = sql(
            "SELECT id, {content} FROM {table} JOIN (SELECT id FROM {table}"
            " WHERE queue_name = :queue AND id > :after{there} ORDER BY id LIMIT :limit) AS page USING (id) ORDER BY id"
        )
        self.find = sql("SELECT id, {content} FROM {table} WHERE queue_name = :queue AND id = :id{there}")
        self.remove = sql("DELETE FROM {table} WHERE queue_name = :queue AND id IN ({ids})")
        # In the order of an index, so that it takes no time that there are none, beside however many messages.
        self.notes = sql(
            "SELECT id, {content} FROM {table} WHERE queue_name = :queue AND delivered_at IS NULL"
            " ORDER BY available_at, id"
        )
        self.last_id = sql("SELECT MAX(id) FROM {table}")
        self.purge = sql(f"DELETE FROM {{table}} {dialect.purging}")
