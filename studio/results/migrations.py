"""How the index of results came to its present form: a list that is only ever appended to.

Migration n (counted from 1) brings an index of version n - 1 to version n; SQLite's own `user_version`
holds the version. A line that has once been released is never changed: add another one.
"""

from __future__ import annotations

import sqlite3

from pipelines.core.errors import StoreError

__all__ = ["MIGRATIONS", "add_search", "migrate"]

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE result (
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            created REAL NOT NULL,
            job TEXT NOT NULL,
            position INTEGER NOT NULL,
            width INTEGER NOT NULL,
            height INTEGER NOT NULL,
            size INTEGER NOT NULL,
            prompt TEXT NOT NULL,
            parameters TEXT NOT NULL,
            metadata TEXT NOT NULL
        )""",
    ),
    ("ALTER TABLE result ADD COLUMN trashed REAL",),
    (
        "CREATE INDEX result_recent ON result (created, id) WHERE trashed IS NULL",
        "CREATE INDEX result_kind ON result (kind, created, id) WHERE trashed IS NULL",
        "CREATE INDEX result_trash ON result (trashed) WHERE trashed IS NOT NULL",
        "CREATE INDEX result_job ON result (job, position)",
    ),
    (
        "ALTER TABLE result ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX result_owner ON result (owner, created, id) WHERE trashed IS NULL",
    ),
    (
        "ALTER TABLE result ADD COLUMN favorite INTEGER NOT NULL DEFAULT 0",
        """ALTER TABLE result ADD COLUMN model TEXT GENERATED ALWAYS AS (CASE WHEN json_valid(metadata)
            AND json_type(metadata, '$.request.model') = 'text'
            THEN json_extract(metadata, '$.request.model') ELSE '' END) VIRTUAL""",
        """ALTER TABLE result ADD COLUMN steps INTEGER GENERATED ALWAYS AS (CASE WHEN json_valid(metadata)
            AND json_type(metadata, '$.request.num_inference_steps') = 'integer'
            THEN json_extract(metadata, '$.request.num_inference_steps') ELSE 0 END) VIRTUAL""",
        """ALTER TABLE result ADD COLUMN seconds REAL GENERATED ALWAYS AS (CASE WHEN json_valid(metadata)
            AND json_type(metadata, '$.figures.seconds') IN ('integer', 'real')
            THEN json_extract(metadata, '$.figures.seconds') ELSE 0 END) VIRTUAL""",
        "CREATE INDEX result_favorite ON result (created, id) WHERE trashed IS NULL AND favorite = 1",
        "CREATE INDEX result_model ON result (model, created, id) WHERE trashed IS NULL",
        "CREATE INDEX result_by_model ON result (model = '', model, -created, id) WHERE trashed IS NULL",
        "CREATE INDEX result_seconds ON result (seconds, created, id) WHERE trashed IS NULL",
        "CREATE INDEX result_steps ON result (steps, created, id) WHERE trashed IS NULL",
    ),
)
"""Statements of each version, in order."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring an index up to the newest version; several processes may try at once.

    Args:
        connection: in autocommit mode (`isolation_level=None`).

    Raises:
        StoreError: the index was made by a newer version of the studio.
    """
    version = _read_version(connection)
    if version > len(MIGRATIONS):
        raise StoreError(
            f"The index of results has version {version}, and this studio knows versions up to {len(MIGRATIONS)}: "
            "update the studio, or choose another results folder."
        )
    while version < len(MIGRATIONS):
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = _read_version(connection)  # another process may have been faster
            if version < len(MIGRATIONS):
                for statement in MIGRATIONS[version]:
                    connection.execute(statement)
                version += 1
                connection.execute(f"PRAGMA user_version = {version:d}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def add_search(connection: sqlite3.Connection) -> bool:
    """Make the full-text table of the prompts where this SQLite can, and fill it if rows are missing.

    It stands outside the migrations because whether SQLite has FTS5 is a property of the machine, and an
    index may travel between machines. The trigram tokenizer finds parts of words, as LIKE does.

    Returns:
        Whether the table `result_search` can be used.
    """
    try:
        connection.execute("CREATE VIRTUAL TABLE IF NOT EXISTS result_search USING fts5(prompt, tokenize='trigram')")
        (num_indexed,), (num_results,) = (
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            for table in ("result_search_docsize", "result")
        )
    except sqlite3.OperationalError as error:
        if any(words in str(error) for words in ("no such module", "tokenizer", "no such table")):
            return False
        raise
    if num_indexed != num_results:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM result_search")
        connection.execute("INSERT INTO result_search (rowid, prompt) SELECT number, prompt FROM result")
        connection.execute("COMMIT")
    return True


def _read_version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA user_version").fetchone()[0]
