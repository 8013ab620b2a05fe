"""The fleet service: ingest, ledger, telemetry, identity, registry, rollouts."""
