"""All tables, so that one import registers every one with `Base.metadata`."""

from roadloop_cloud.store import ingest_tables

__all__ = ["ingest_tables"]
