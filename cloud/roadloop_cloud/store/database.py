"""The database by URL: SQLite for one machine, PostgreSQL for more."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from roadloop_cloud.store.base import Base
from roadloop_cloud.store.ingest_tables import Meta
from roadloop_models.errors import ConfigError, RetryLaterError

SCHEMA_VERSION = 3
BUSY_TIMEOUT_S = 30.0
_READ_ONLY = "roadloop_read_only"


class Database:
    """One engine. Everything is read and written inside `transaction()` or `reading()`."""

    def __init__(self, url: str) -> None:
        """Prepare the engine; nothing is connected yet. Raises ConfigError where the URL or its driver is unknown."""
        try:
            parsed = make_url(url)
            self.engine = create_engine(parsed)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise ConfigError(f"[database] url: {error}; use sqlite:///FILE or postgresql+psycopg://…") from error
        self.url = parsed.render_as_string(hide_password=True)
        if self.engine.dialect.name == "sqlite":
            _prepare_sqlite(self.engine)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that commits at the end of the block and rolls back where it raises.

        On SQLite it holds the write lock from its first statement, so that what it read is still true when it writes.
        """
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one state of the database throughout and keeps nobody from writing."""
        level = {} if self.engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        engine = self.engine.execution_options(**{_READ_ONLY: True}, **level)
        with Session(engine, expire_on_commit=False) as session:
            yield session

    def create(self) -> None:
        """Make the tables of a new workspace. Repeatable. Raises ConfigError where other tables are there already."""
        from roadloop_cloud.store import tables

        assert tables
        with self.engine.begin() as connection:
            Base.metadata.create_all(connection)
        with self.transaction() as session:
            if session.get(Meta, "schema_version") is None:
                session.add(Meta(key="schema_version", value=str(SCHEMA_VERSION)))
                # Taken from the clock, so that a database made anew is never mistaken for the one before.
                session.add(Meta(key="ledger_epoch", value=str(int(time.time()))))
        self.check()

    def check(self) -> None:
        """Raise ConfigError where this is not a database of this version, RetryLaterError where it is not reachable."""
        try:
            known = inspect(self.engine).has_table(Meta.__tablename__)
            with self.reading() as session:
                row = session.get(Meta, "schema_version") if known else None
        except SQLAlchemyError as error:
            raise RetryLaterError(f"database {self.url}: {error}") from error
        found = "no Roadloop database" if row is None else f"a database of schema version {row.value}"
        if row is None or row.value != str(SCHEMA_VERSION):
            raise ConfigError(f"{self.url} is {found}; this program needs schema version {SCHEMA_VERSION}")

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def ledger_epoch(session: Session) -> int:
    """The epoch that cursors are announced with."""
    row = session.get_one(Meta, "ledger_epoch")
    return int(row.value)


def begin_new_epoch(session: Session) -> int:
    """Announce that this database was restored: vehicles send again all that they still hold. Returns the epoch."""
    row = session.get_one(Meta, "ledger_epoch")
    row.value = str(max(int(row.value) + 1, int(time.time())))
    session.merge(Meta(key="restored", value=row.value))
    return int(row.value)


def is_restored(session: Session) -> bool:
    """Whether this database is one that was restored: other stores may know more than it does."""
    return session.get(Meta, "restored") is not None


def now_utc() -> datetime:
    """The wall clock; for records, never for measuring how long something took."""
    return datetime.now(UTC)


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: object, _record: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]  # BEGIN is ours, see below
        cursor = connection.cursor()  # type: ignore[attr-defined]
        cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        read_only = connection.get_execution_options().get(_READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
