"""What every part of the ledger does: read and write rows of one scope over one connection."""

from collections.abc import Callable, Sequence
from typing import Any

from nestmem.store.connection import Connection
from nestmem.store.records import Scope


class Scoped:
    """A connection, a maker of ids, and the numbers of scopes. Parts of the ledger are built on it."""

    def __init__(self, connection: Connection, *, new_id: Callable[[str], str]) -> None:
        self._connection = connection
        self.new_id = new_id

    def _read(self, sql: str, values: Sequence[Any]) -> list[tuple]:
        with self._connection.reading() as raw:
            return raw.execute(sql, values).fetchall()

    def _by_ids(
        self,
        table: str,
        columns: str,
        where: list[str],
        values: list[Any],
        column: str,
        ids: list[Any],
        order: str,
    ) -> list[tuple]:
        found: list[tuple] = []
        for start in range(0, len(ids), 500):
            chunk = ids[start : start + 500]
            conditions = " AND ".join([*where, f"{column} IN ({','.join('?' * len(chunk))})"])
            found += self._read(
                f"SELECT {columns} FROM {table} WHERE {conditions} ORDER BY {order}", [*values, *chunk]
            )
        return found

    def _scope_id(self, scope: Scope, *, create: bool = False) -> int:
        """The scope's number, 0 (which matches nothing) when it is not in the file."""
        values = (scope.tenant, scope.user, scope.agent)
        found = self._read("SELECT id FROM scope WHERE tenant = ? AND user = ? AND agent = ?", values)
        if found:
            return found[0][0]
        if not create:
            return 0
        with self._connection.transaction() as raw:
            number = raw.execute("INSERT INTO scope(tenant, user, agent) VALUES(?, ?, ?)", values).lastrowid
        assert number is not None
        return number
