"""`roadloop-agent trace`."""

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from roadloop_agent.cli_common import CONFIG, JSON, one_line_errors, print_json

if TYPE_CHECKING:
    from roadloop_models.preprocess import ImageArray


@click.command(epilog="Example: roadloop-agent trace --config van-1/vehicle.toml -o van-1.trace")
@CONFIG
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The trace.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Only so much of the drive.")
@JSON
@one_line_errors
def trace(config_path: Path, output: Path, seconds: float | None, as_json: bool) -> None:
    """Write what campaigns would see of the vehicle's recorded sources, for `roadloop campaign test --replay`."""
    from roadloop_agent.app.store import open_store
    from roadloop_agent.campaigns.privacy import open_darkroom
    from roadloop_agent.campaigns.trace import write_trace
    from roadloop_agent.config import load_config
    from roadloop_agent.drive.pipeline import load_model
    from roadloop_agent.validate import installed
    from roadloop_models.campaigns.watched import WATCHED
    from roadloop_models.sealed import FileKeyStore

    config = load_config(config_path)
    versions, keys = installed(config, open_store(config)), FileKeyStore(config.sealing_key_path)
    with contextlib.ExitStack() as stack:
        models = {
            name: stack.enter_context(
                contextlib.closing(load_model(directory, table.variant_key, ref, table.providers, keys))
            )
            for name, table in config.profile.slots.items()
            if table.task in WATCHED
            for ref, directory in (versions[name],)
        }
        written = write_trace(
            config,
            models,
            open_darkroom(config.privacy_detector, config.privacy.labels, _encode_image),
            output,
            start_ms=time.time_ns() // 1_000_000,
            passed_over=lambda error: click.echo(f"passed over: {error}", err=True),
            max_seconds=seconds,
        )
    if as_json:
        print_json({"output": str(output), "seconds": written.seconds, "moments": written.moments})
    else:
        counts = ", ".join(f"{count} of {slot}" for slot, count in written.moments.items())
        click.echo(f"{written.seconds:.0f} s of driving in {output}: {counts} moments", err=True)


def _encode_image(image: "ImageArray") -> bytes:
    # A vehicle without a camera must not load OpenCV.
    from roadloop_agent.drive.sources.images import encode_png

    return encode_png(image)
