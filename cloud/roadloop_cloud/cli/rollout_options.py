"""The options that `rollout create` and `rollout plan` share, and what they mean to the service."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from roadloop_cloud.cli.options import with_options

if TYPE_CHECKING:
    from roadloop_cloud.rollout.settings import Settings
    from roadloop_cloud.rollout.spec import ShadowSpec, Target
    from roadloop_cloud.rollout.statements import Signatory

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_SHARE = click.FloatRange(0, 1)
rollout_options = with_options(
    click.option("--task", help="What the release is for, unless --release says TASK=NUMBER."),
    click.option(
        "--release",
        "releases",
        multiple=True,
        required=True,
        help="Number of the release, or TASK=NUMBER; repeated, the releases go together or not at all.",
    ),
    click.option("--vehicle", "vehicles", multiple=True, help="A vehicle by id; repeatable."),
    click.option("--tag", "tags", multiple=True, help="Vehicles with this tag; repeatable."),
    click.option("--hardware", multiple=True, help="Only of this hardware or profile; repeatable."),
    click.option("--all", "everyone", is_flag=True, help="All vehicles that run the task."),
    click.option("--percent", type=click.FloatRange(0, 100, min_open=True), help="Of those that match, so many."),
    click.option("--fixed", is_flag=True, help="Do not take in vehicles that match only later."),
    click.option("--waves", help="How many have it after each wave: counts or shares, for example 1,50%,100%."),
    click.option("--ramp", help="Instead: 1x2 begins with 1 and goes on with 2 times as many as have succeeded."),
    click.option("--success-threshold", type=_SHARE, help="Share of a wave that must succeed."),
    click.option("--error-threshold", type=_SHARE, help="Above this share of failures it is taken back."),
    click.option("--min-executed", type=click.IntRange(1), help="How many must have finished before they are judged."),
    click.option("--soak", "soak_s", type=click.FloatRange(0), help="Seconds from a wave's success to the next wave."),
    click.option("--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), help="Seconds a vehicle may take."),
    click.option(
        "--on-failure",
        type=click.Choice(["cohort", "all", "pause"]),
        help="Where too many fail: take it back from the cohort that suffers, from all, or pause.",
    ),
    click.option("--after-cohort", type=click.Choice(["continue", "pause"]), help="What the others do then."),
    click.option("--approval", "approvals", type=click.IntRange(0, 16), help="People who must approve each wave."),
    click.option("--shadow", is_flag=True, help="Each wave first runs it in the shadow, until the test decides."),
    click.option("--max-disagreement", type=_SHARE, help="Share of frames it may decide otherwise, in the shadow."),
    click.option("--window", "windows", multiple=True, help="Switch only then: 'Mo-Fr 01:00-05:00'; repeatable."),
    click.option("--parked", is_flag=True, help="Switch only while the vehicle is parked."),
    click.option("--consent", is_flag=True, help="Switch only when somebody at the vehicle has said yes."),
    click.option("--transport", type=click.Choice(["auto", "mqtt", "https"]), help="How files come."),
    click.option("--unmetered", is_flag=True, help="Never over a metered link."),
    click.option(
        "--health-window", "health_window_s", type=click.FloatRange(0, min_open=True), help="Seconds on trial."
    ),
    click.option(
        "--fetch-rate", "fetch_bytes_per_s", type=click.IntRange(1024), help="Bytes a second to each vehicle."
    ),
)


def signatory_options(function: FunctionT) -> FunctionT:
    """Add `--as` and `--key`."""
    file = click.Path(path_type=Path, dir_okay=False)
    key = click.option("--key", "key_file", type=file, help="Your private key file.")
    return click.option("--as", "operator", help="Your name, as 'operators add' registered it.")(key(function))


def signatory(operator: str | None, key_file: Path | None) -> "Signatory | None":
    """Who signs; None where neither option was given. Raises ConfigError where the key file is none."""
    from roadloop_cloud.rollout.statements import Signatory

    if (operator is None) != (key_file is None):
        raise click.UsageError("--as and --key belong together")
    return None if operator is None or key_file is None else Signatory.load(operator, key_file)


def required_signatory(operator: str | None, key_file: Path | None) -> "Signatory":
    """The same where somebody has to sign."""
    who = signatory(operator, key_file)
    if who is None:
        raise click.UsageError("say who you are by --as NAME --key FILE")
    return who


def what(task: str | None, releases: tuple[str, ...]) -> list[tuple[str, int]]:
    """Task and number of every release."""
    found = []
    for text in releases:
        name, _, number = text.rpartition("=")
        name = name or task or ""
        if not name or not number.isdecimal() or int(number) < 1:
            raise click.UsageError(f"--release {text}: give --task and a number, or TASK=NUMBER")
        found.append((name, int(number)))
    return found


def target(options: dict[str, Any]) -> "Target":
    """Takes its options out of all options."""
    from roadloop_cloud.rollout.spec import Target

    percent = options.pop("percent")
    return Target(
        vehicles=options.pop("vehicles"),
        tags=options.pop("tags"),
        everyone=options.pop("everyone"),
        hardware=options.pop("hardware"),
        share=1.0 if percent is None else percent / 100,
    )


def settings(options: dict[str, Any]) -> "Settings":
    """What is left of the options, for the service."""
    from roadloop_cloud.rollout.settings import Settings
    from roadloop_cloud.rollout.windows import parse_window
    from roadloop_models.contract.messages import SwitchWhen

    waves, windows = options.pop("waves"), tuple(parse_window(text) for text in options.pop("windows"))
    when = SwitchWhen(windows=windows, parked=options.pop("parked"), consent=options.pop("consent"))
    return Settings(
        waves=None if waves is None else tuple(waves.split(",")),
        late_joiners=False if options.pop("fixed") else None,
        shadow=_shadow(options.pop("shadow"), options["max_disagreement"]),
        metered=False if options.pop("unmetered") else None,
        switch_when=when if when != SwitchWhen() else None,
        **options,
    )


def _shadow(asked: bool, max_disagreement: float | None) -> "ShadowSpec | None":
    from roadloop_cloud.rollout.evidence import Bound
    from roadloop_cloud.rollout.spec import ShadowSpec

    if not asked:
        return None
    return ShadowSpec() if max_disagreement is None else ShadowSpec(bound=Bound(max_disagreement=max_disagreement))
