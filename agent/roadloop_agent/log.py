"""Where the agent's processes say what they do."""

import faulthandler
import logging
import sys


def setup_logging() -> None:
    """To stderr, which systemd takes down; where native code ends the process, with the stacks of its threads."""
    faulthandler.enable(2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
