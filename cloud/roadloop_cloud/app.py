"""The one place that builds the cloud's objects and connects them, and the entry of its processes.

`python -m roadloop_cloud.app ingest|fleet|jobs --workspace DIR` runs one process; `roadloop up` starts them.
"""

from functools import cached_property

from roadloop_cloud.store.database import Database
from roadloop_cloud.workspace import Workspace


class Application:
    """The services of one workspace, each built when it is first asked for."""

    def __init__(self, workspace: Workspace) -> None:
        """Nothing is opened yet."""
        self.workspace = workspace

    @cached_property
    def database(self) -> Database:
        """The checked database. Raises ConfigError or RetryLaterError where it is not usable."""
        database = Database(self.workspace.database_url)
        database.check()
        return database
