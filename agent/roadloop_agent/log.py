"""Where the agent's processes say what they do."""

import logging
import sys


def setup_logging() -> None:
    """To stderr, which systemd takes down."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
