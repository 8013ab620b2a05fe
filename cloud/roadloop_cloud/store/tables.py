"""All tables, so that one import registers every one with `Base.metadata`."""

from roadloop_cloud.store import fleet_tables, ingest_tables, loop_tables

__all__ = ["fleet_tables", "ingest_tables", "loop_tables"]
