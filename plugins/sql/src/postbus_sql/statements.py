"""The statements, in SQL that SQLite, PostgreSQL and MariaDB share but for what the dialect fills in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postbus_sql.dialects import Sqlite


class Statements:
    """What is said to one table; ``{ids}`` is left open for `with_ids`.

    Each transaction of ours begins with a statement that writes, and each search is served by the one index
    of `schema`: rows in flight lie apart from those at rest, so that neither is in the other's way.
    """

    def __init__(self, table: str, dialect: Sqlite) -> None:
        def sql(text: str) -> str:
            content = f"{dialect.as_bytes('body')}, {dialect.as_bytes('headers')}"
            times = {"{available}": dialect.as_bytes("available_at"), "{delivered}": dialect.as_bytes("delivered_at")}
            for name, column in times.items():
                text = text.replace(name, column)
            return text.replace("{table}", table).replace("{content}", content)

        self.insert = sql(
            "INSERT INTO {table} (body, headers, queue_name, created_at, available_at) VALUES (?, ?, ?, ?, ?)"
        )
        self.next_due = sql(
            "SELECT"
            " (SELECT {available} FROM {table} WHERE queue_name = ? AND delivered_at IS NULL"
            " ORDER BY available_at LIMIT 1),"
            " (SELECT {delivered} FROM {table} WHERE queue_name = ? AND delivered_at >= ?"
            " ORDER BY delivered_at LIMIT 1)"
        )
        self.claim_waiting = sql(
            "UPDATE {table} SET delivered_at = ? WHERE id IN"
            " (SELECT id FROM {table} WHERE queue_name = ? AND delivered_at IS NULL AND available_at <= ?"
            " ORDER BY available_at, id LIMIT ?)"
            " RETURNING {available}, id, {content}"
        )
        self.claim_expired = sql(
            "UPDATE {table} SET delivered_at = ? WHERE id IN"
            " (SELECT id FROM {table} WHERE queue_name = ? AND delivered_at < ?"
            " ORDER BY delivered_at, available_at, id LIMIT ?)"
            " RETURNING {available}, id, {content}"
        )
        self.set_headers = sql("UPDATE {table} SET headers = ? WHERE id = ?")

        # A delivery is known by its id and by when it was claimed: a lease that was lost matches no row.
        self.delete_leased = sql("DELETE FROM {table} WHERE delivered_at = ? AND id IN ({ids}) RETURNING id")
        self.release = sql(
            "UPDATE {table} SET delivered_at = NULL WHERE delivered_at = ? AND id IN ({ids}) RETURNING id"
        )
        self.extend = sql("UPDATE {table} SET delivered_at = ? WHERE delivered_at = ? AND id IN ({ids}) RETURNING id")

        of_queue = f"COUNT(*), {dialect.as_bytes('MIN(available_at)')} FROM {table} WHERE queue_name = ? AND"
        self.count = sql(
            f"SELECT 'waiting', {of_queue} delivered_at IS NULL AND available_at <= ?"
            f" UNION ALL SELECT 'expired', {of_queue} delivered_at < ?"
            f" UNION ALL SELECT 'delayed', {of_queue} delivered_at IS NULL AND available_at > ?"
            f" UNION ALL SELECT 'in flight', {of_queue} delivered_at >= ?"
        )
        self.browse = sql(
            "SELECT id, {content} FROM {table} WHERE id IN"
            " (SELECT id FROM {table} WHERE queue_name = ? AND id > ? ORDER BY id LIMIT ?) ORDER BY id"
        )
        self.find = sql("SELECT id, {content} FROM {table} WHERE queue_name = ? AND id = ?")
        self.remove = sql("DELETE FROM {table} WHERE queue_name = ? AND id IN ({ids})")
        self.last_id = sql("SELECT MAX(id) FROM {table}")
        self.purge = sql(
            "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE queue_name = ? AND id <= ? LIMIT ?)"
        )


def with_ids(statement: str, ids: int) -> str:
    """Return a statement with room for so many ids."""
    return statement.replace("{ids}", ",".join("?" * ids))
