"""How a vehicle shows who it is."""

import ssl

from roadloop_agent.config import Config
from roadloop_agent.link.mqtt import tls_context


def vehicle_tls(config: Config) -> ssl.SSLContext:
    """The TLS of this vehicle, for its broker and its files. Raises ConfigError where a file of it is wrong."""
    broker = config.broker
    return tls_context(*(config.identity_path(name) for name in (broker.ca, broker.certificate, broker.key)))
