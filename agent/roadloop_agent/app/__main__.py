"""`python -m roadloop_agent.app drive|link|check …`: how the supervisor starts its children."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from roadloop_agent.config import Config, load_config
from roadloop_agent.log import setup_logging
from roadloop_models.errors import RoadloopError

_LINK_NICE = 5
"""Link takes the processor when drive leaves it: what drives comes first."""


def main(arguments: Sequence[str]) -> int:
    """One child process; the exit code."""
    parser = argparse.ArgumentParser(prog="roadloop_agent.app")
    parser.add_argument("role", choices=["drive", "link", "provision", "check", "director"])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--pipe", type=int)
    parser.add_argument("--beat", type=int)
    parser.add_argument("--state-dir", type=Path)
    parser.add_argument("--parent", type=int)
    options = parser.parse_args(arguments)
    setup_logging()
    if options.parent is not None:
        from roadloop_agent.supervisor import die_with_parent

        die_with_parent(options.parent)
    try:
        _run(load_config(options.config), options)
    except RoadloopError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def _run(config: Config, options: argparse.Namespace) -> None:
    """Imports are made here, so that each process loads only its own."""
    match options.role:
        case "provision":
            from roadloop_agent.app.store import provision

            provision(config)
        case "check":
            from roadloop_agent.app.reload import check_reload

            check_reload(config, options.state_dir)
        case "director":
            from roadloop_agent.app.director import answer_apart

            os.nice(_LINK_NICE)
            answer_apart(config)
        case "drive":
            from roadloop_agent.app.drive import run_drive

            run_drive(config, options.pipe, options.beat)
        case "link":
            from roadloop_agent.app.link import run_link

            os.nice(_LINK_NICE)
            run_link(config, options.pipe, options.beat)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
