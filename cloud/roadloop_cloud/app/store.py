"""Builds what keeps the workspace's data: the database, telemetry, captured items, jobs."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

from roadloop_cloud.store.database import Database
from roadloop_cloud.workspace import Workspace

if TYPE_CHECKING:  # imported where they are built: a command pays only for what it uses
    from roadloop_cloud.captures import Captures
    from roadloop_cloud.jobs import Jobs, Work
    from roadloop_cloud.telemetry.service import Telemetry


class StoreParts:
    """What every other part stands on, each built when it is first asked for."""

    def __init__(self, workspace: Workspace) -> None:
        """Nothing is opened yet."""
        self.workspace = workspace

    @cached_property
    def database(self) -> Database:
        """The checked database. Raises ConfigError or RetryLaterError where it is not usable."""
        database = Database(self.workspace.database_url)
        database.check()
        return database

    def create_database(self) -> None:
        """Make the tables of a new workspace."""
        Database(self.workspace.database_url).create()

    @cached_property
    def telemetry(self) -> "Telemetry":
        """Stored samples: moved, read, counted."""
        from roadloop_cloud.telemetry.service import Telemetry

        return Telemetry(self.database, self.workspace.telemetry)

    def move_telemetry(self, _work: "Work") -> dict[str, Any]:
        """A job: committed batches to the Delta tables."""
        moved = self.telemetry.move()
        return {"batches": moved.batches, "samples": moved.samples}

    @cached_property
    def captures(self) -> "Captures":
        """Captured items, and what vehicles decided about them."""
        from roadloop_cloud.captures import Captures

        return Captures(self.database, self.workspace.blob, self.telemetry.read_stream)

    @cached_property
    def jobs(self) -> "Jobs":
        """Work under leases."""
        from roadloop_cloud.jobs import Jobs

        return Jobs(self.database)
