"""The options that `retrain` and `loop enable` share: what each candidate is asked for."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from roadloop_cloud.cli.options import DATA_OPTION, TRAINING_OPTIONS, with_options

if TYPE_CHECKING:
    from roadloop_cloud.retrain.pipeline import RetrainSpec


retrain_options = with_options(
    DATA_OPTION,
    click.option(
        "--labels",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="For the snapshot: CSV with sha256,label of captured images.",
    ),
    click.option(
        "--teacher",
        help="First let this version, or the release of this number, label captured items that have no label.",
    ),
    click.option(
        "--base",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="Data folder whose rows are trained on beside the snapshot, so that nothing is forgotten.",
    ),
    click.option(
        "--base-part",
        type=click.Choice(["all", "starter", "rest"]),
        default="starter",
        show_default=True,
        help="Which training rows of --base.",
    ),
    click.option(
        "--replay",
        "replay_share",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="Share of the batches that replay --base, or without it what the incumbent was trained on.",
    ),
    click.option(
        "--margin", type=click.FloatRange(0), help="By how much it must be better; else as roadloop.toml has it."
    ),
    *TRAINING_OPTIONS,
    click.option(
        "--compress",
        type=click.Choice(["distil", "prune"]),
        help="Make the candidate a smaller network, with the incumbent as its teacher.",
    ),
    click.option(
        "--share",
        type=click.FloatRange(0, 1, min_open=True),
        default=0.5,
        show_default=True,
        help="With --compress: of the incumbent's parameters, to keep at most.",
    ),
    click.option(
        "--qat-above",
        type=click.FloatRange(0),
        help="Where the gate refuses it and int8 loses more than this on validation rows (signs: 0.001), train on "
        "quantization-aware, once.",
    ),
    click.option("--publish", is_flag=True, help="Sign an accepted candidate as the next release."),
    click.option("--rollout", "waves", help="And take it to all vehicles in these waves, for example 1,50%,100%."),
)


def retrain_spec(
    *,
    data: Path,
    labels: Path | None,
    base: Path | None,
    base_part: Any,
    compress: Any,
    share: float,
    waves: str | None,
    publish: bool,
    **rest: Any,
) -> "RetrainSpec":
    """What was asked for; `rest` are fields of RetrainSpec by their names."""
    from roadloop_cloud.retrain.pipeline import RetrainSpec, RolloutRequest
    from roadloop_cloud.training.compress.settings import Compression
    from roadloop_cloud.training.spec import DataSource

    return RetrainSpec(
        data=str(data.resolve()),
        labels=None if labels is None else str(labels.resolve()),
        base=None if base is None else DataSource(str(base.resolve()), base_part),
        compress=None if compress is None else Compression(method=compress, share=share),
        publish=publish or waves is not None,
        rollout=None if waves is None else RolloutRequest(waves=tuple(waves.split(","))),
        **rest,
    )
