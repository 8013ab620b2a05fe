"""The process that talks to the cloud: spool, MQTT, updates."""
