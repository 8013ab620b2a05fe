"""`roadloop models merge`."""

from pathlib import Path

import click

from roadloop_cloud.cli.options import with_output
from roadloop_cloud.cli.output import Output, details

_BUNDLE = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command("merge")
@click.argument("bundles", metavar="BUNDLE BUNDLE...", nargs=-1, required=True, type=_BUNDLE)
@click.option("--data", required=True, type=_BUNDLE, help="Data folder, the one that holds losloop/.")
@click.option("--version", required=True, help="Name of the new version.")
@click.option("--output", "directory", required=True, type=click.Path(path_type=Path), help="Bundle to write.")
@with_output
def command(*, output: Output, bundles: tuple[Path, ...], data: Path, version: str, directory: Path) -> None:
    """Make one network of several traffic-speed models: its answer is the mean of theirs. Nothing is trained.

    \b
    Example:
      roadloop models merge ./seed-0 ./seed-1 --data ./data --version both-1 --output ./both-1
    """
    from roadloop_cloud.training.merging import merge_bundles
    from roadloop_models.bundle import Bundle

    with output.steps(f"Merging {len(bundles)} models"):
        result = merge_bundles([Bundle.open(path) for path in bundles], data, version, directory)
    output.result(
        {"bundle": result.bundle, "metrics": result.metrics},
        details({name: f"{value:.5g}" for name, value in result.metrics.items()}, title=f"traffic-speed {version}"),
        f"written to {result.bundle}",
    )
