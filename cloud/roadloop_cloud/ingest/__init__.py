"""Telemetry on its way into the database: checked, de-duplicated, committed, and only then acknowledged."""
