"""Records that somebody has changed with SQL, with the checksums of what is in them now."""

import sqlite3

from normscope.records.schema import COUNTED, checksum

COLUMNS = {
    "meta": "key, value",
    "epochs": "epoch, name, value",
    "blocks": "steps",
    "arrays": "layer, statistic, first_step, last_step, epoch, block, dtype, shape, data",
    "events": "step, epoch, kind, layer, detail",
    "resume": "id, epoch, state",
}
KEYS = {
    "meta": "key",
    "epochs": "epoch, name",
    **dict.fromkeys(("blocks", "arrays", "events", "resume"), "id"),
}


def plant(path, *statements):
    """Run statements in a record, and make its checksums and counts those of what it holds then;
    returns the number of rows that the statements changed.
    """
    connection, changed = sqlite3.connect(path, isolation_level=None), 0
    try:
        connection.execute("BEGIN")
        for statement in statements:
            sql, *parameters = (statement,) if isinstance(statement, str) else statement
            changed += max(0, connection.execute(sql, parameters).rowcount)
        seal(connection)
        connection.execute("COMMIT")
    finally:
        connection.close()
    return changed


def seal(connection):
    if connection.execute("PRAGMA user_version").fetchone()[0] < 2:
        return
    for table in COUNTED:
        keys, columns = KEYS[table].split(", "), COLUMNS[table]
        try:
            rows = connection.execute(f"SELECT {KEYS[table]}, {columns} FROM {table}").fetchall()
        except sqlite3.OperationalError:
            continue  # a statement took the table away
        where = " AND ".join(f"{key} = ?" for key in keys)
        connection.executemany(
            f"UPDATE {table} SET crc = ? WHERE {where}",
            [(checksum(*row[len(keys) :]), *row[: len(keys)]) for row in rows],
        )
        count = (table, len(rows))
        connection.execute("INSERT OR REPLACE INTO counts VALUES (?, ?)", count)
