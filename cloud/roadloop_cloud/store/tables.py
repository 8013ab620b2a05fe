"""All tables, so that one import registers every one with `Base.metadata`."""

from roadloop_cloud.store import (
    campaign_tables,
    drift_tables,
    fleet_tables,
    ingest_tables,
    label_tables,
    loop_tables,
)

__all__ = ["campaign_tables", "drift_tables", "fleet_tables", "ingest_tables", "label_tables", "loop_tables"]
