"""`roadloop-agent`: the vehicle's commands. Exit code 0 done, 1 failed, 2 bad input."""

import contextlib
import logging
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from roadloop_agent.cli_common import CONFIG, JSON, Directory, one_line_errors, print_json, print_table
from roadloop_agent.cli_consent import consent
from roadloop_agent.cli_service import install, tail
from roadloop_agent.cli_sim import sim
from roadloop_agent.cli_trace import trace
from roadloop_models import __version__
from roadloop_models.errors import ConfigError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="roadloop-agent")
def main() -> None:
    """The vehicle: runs models, sends telemetry, takes updates."""


@main.command(epilog="Example: roadloop-agent run --config /etc/roadloop/vehicle.toml")
@CONFIG
@one_line_errors
def run(config_path: Path) -> None:
    """Run the agent until SIGTERM or Ctrl-C."""
    from roadloop_agent.app.start import run_agent
    from roadloop_agent.log import setup_logging

    setup_logging()
    run_agent(config_path)


@main.command(epilog="Example: roadloop-agent validate --config van-1/vehicle.toml --log drive.log --log gnss.nmea")
@CONFIG
@click.option(
    "--log",
    "logs",
    multiple=True,
    metavar="[FEED=]PATH[#BUS]",
    help="Run a recorded log through the signals, and show what each slot would get of it.",
)
@JSON
@one_line_errors
def validate(config_path: Path, logs: tuple[str, ...], as_json: bool) -> None:
    """Check configuration, certificates, sources and bundles; show what each slot would get."""
    import msgspec

    from roadloop_agent.app.store import open_store
    from roadloop_agent.cli_signals import SIGNALS_HEADER, signal_rows
    from roadloop_agent.config import load_config
    from roadloop_agent.drive.sources.signals.survey import LogChoice
    from roadloop_agent.validate import validate as check

    config = load_config(config_path)
    reports = check(config, open_store(config), [LogChoice.parse(log) for log in logs])
    if as_json:
        print_json({"vehicle": config.vehicle_id, "slots": msgspec.to_builtins(reports)})
        return
    print_table(
        ("slot", "task", "release", "version", "variant", "source", "rate", "self-test", "providers"),
        [
            (
                report.slot,
                report.task,
                str(report.release),
                report.version,
                report.variant,
                f"{report.source} ({report.sees})" if report.sees else report.source,
                f"{report.rate_hz:g} Hz",
                f"passed ({report.golden_worst_ratio:.0%} of what is allowed)",
                ", ".join(report.providers),
            )
            for report in reports
        ],
    )
    if logs:
        click.echo()
        print_table(SIGNALS_HEADER, [row for report in reports for row in signal_rows(report)])


@main.command(epilog="Example: roadloop-agent infer --bundle models/factory/traffic-sign --input sign.png -o out.jsonl")
@click.option("--bundle", "bundle_dir", type=Directory, required=True, help="The bundle's directory.")
@click.option("--runtime", type=click.Choice(["onnx", "tflite"]), help="Default: the first that works here.")
@click.option("--precision", type=click.Choice(["int8", "fp32"]), help="Default: int8 where the bundle has it.")
@click.option(
    "--input",
    "input_path",
    type=click.Path(path_type=Path),
    required=True,
    help="An image, a folder of images, a video, an .npz of signs, or a CSV of speeds.",
)
@click.option("--output", "-o", "output_path", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option(
    "--outage",
    metavar="START_S,SECONDS",
    help="localization: hide the reference for that stretch, which begins START_S after the first row. In the output "
    "`t` counts from there too, and east_m and north_m from the reference's first position.",
)
@click.option(
    "--dbc",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="localization: the DBC of a CAN log (candump, BLF, ASC, npz; PATH#BUS for one bus); repeatable.",
)
@click.option("--drive", help="One drive of a file that has several.")
@click.option(
    "--line",
    "lines",
    multiple=True,
    metavar="NAME:X1,Y1,X2,Y2",
    help="vehicle-count: a counting line, in shares of the picture from its upper left corner; repeatable. "
    "Without any: mid:0,0.5,1,0.5.",
)
@click.option(
    "--class", "classes", multiple=True, metavar="LABEL", help="vehicle-count: count only these labels; repeatable."
)
@click.option(
    "--annotate",
    metavar="CLIP.mp4",
    type=click.Path(path_type=Path, dir_okay=False),
    help="object-detection: write a clip that shows what was found.",
)
@JSON
@one_line_errors
def infer(
    *,
    bundle_dir: Path,
    runtime: str | None,
    precision: str | None,
    input_path: Path,
    output_path: Path,
    as_json: bool,
    outage: str | None,
    lines: tuple[str, ...],
    classes: tuple[str, ...],
    **options: Any,
) -> None:
    """Run a bundle over a file; writes one JSON line per decision."""
    from roadloop_agent.infer import InferOptions, infer_file, open_model

    settings = {"lines": [_line(text) for text in lines], "classes": list(classes)}
    asked = InferOptions({key: value for key, value in settings.items() if value}, outage=_outage(outage), **options)
    model = open_model(bundle_dir, runtime, precision)
    with contextlib.closing(model):
        written = infer_file(model, input_path, output_path, asked, _progress)
        variant, providers = model.variant.key, model.runner.providers
    if as_json:
        print_json({"lines": written, "output": str(output_path), "variant": variant, "providers": list(providers)})
    else:
        click.echo(f"{written} lines in {output_path} ({variant}, {', '.join(providers)})", err=True)


@main.command(epilog="Example: roadloop-agent selftest --bundle models/factory/traffic-sign")
@click.option("--bundle", "bundle_dir", type=Directory, help="One bundle, all its variants.")
@CONFIG
@JSON
@one_line_errors
def selftest(bundle_dir: Path | None, config_path: Path, as_json: bool) -> None:
    """Run the golden vectors of a bundle, or of everything that is installed here."""
    import msgspec

    from roadloop_agent.app.store import open_store
    from roadloop_agent.config import load_config
    from roadloop_agent.selftest import self_test
    from roadloop_models.bundle import Bundle
    from roadloop_models.sealed import FileKeyStore

    if bundle_dir is not None:
        bundle = Bundle.open(bundle_dir)
        todo = [(bundle_dir, variant.key) for variant in bundle.manifest.variants]
        keys = None
    else:
        config = load_config(config_path)
        store, keys = open_store(config), FileKeyStore(config.sealing_key_path)
        todo = [
            (store.version_directory(ref), config.profile.slots[name].variant_key)
            for name, state in store.read().slots.items()
            if name in config.profile.slots
            for ref in state.refs
        ]
    results = [self_test(directory, variant, keys) for directory, variant in todo]
    if as_json:
        print_json(msgspec.to_builtins(results))
        return
    print_table(
        ("task", "version", "variant", "vectors", "largest deviation"),
        [
            (
                result.task,
                result.version,
                result.variant,
                str(result.vectors),
                f"{result.worst_ratio:.0%} of what is allowed",
            )
            for result in results
        ],
    )


@main.command(epilog="Example: roadloop-agent status --config van-1/vehicle.toml --json")
@CONFIG
@JSON
@one_line_errors
def status(config_path: Path, as_json: bool) -> None:
    """Show slots, versions, spool and connection, as link last wrote them."""
    from roadloop_agent.config import load_config
    from roadloop_agent.link.cache import read_cache

    config = load_config(config_path)
    state = read_cache(config.cache_path, "status")
    if as_json:
        print_json(state)
        return
    connection, spool = state["connection"], state["spool"]
    click.echo(f"{state['vehicle']} ({state['hardware']}), agent {state['agent_version']}, boot {state['boot']}")
    online = "connected" if connection["connected"] else f"not connected: {connection['last_error'] or 'not yet'}"
    click.echo(f"broker: {online}; {connection['in_flight']} batches in flight")
    click.echo(
        f"spool: {spool['disk_bytes'] / 1e6:.1f} MB on disk (at most {spool['max_bytes'] / 1e6:.1f}), "
        f"{spool['pending_samples']} samples to send, {spool['lost_samples']} declared lost and not yet accepted"
    )
    network = state["network"]
    limit = f"of {network['bytes_per_day'] / 1e6:g} MB" if network["bytes_per_day"] else "(no limit)"
    click.echo(
        f"network: {network['link_class']} ({network['interface'] or 'interface unknown'}), sends {network['sends']}, "
        f"{network['spent_bytes'] / 1e6:.1f} MB {limit} today"
    )
    director = state["director"]
    wrong = f"; {director['error']['detail']}" if director["error"] else ""
    click.echo(f"director: assignment {director['version'] or 'not seen yet'}{wrong}")
    if files := state["files"]:
        failed = f"; HTTPS failed {files['https_failures']}x: {files['last_failure']}" if files["last_failure"] else ""
        click.echo(f"files: {files['https_files']} by HTTPS, {files['mqtt_files']} by MQTT{failed}")
    temperatures = {(health["temperature_c"], health["band"]) for health in state["health"].values()}
    for temperature_c, band in temperatures:
        if temperature_c is not None:
            click.echo(f"temperature: {temperature_c:.1f} degC ({band})")
    rows = []
    for name, slot in state["slots"].items():
        running, target = slot.get("running"), slot.get("target")
        health = state["health"].get(name)
        rows.append(
            (
                name,
                slot["task"],
                f"{running['release']} ({running['version']})" if running else "none",
                f"{slot['runtime']}-{slot['precision']}",
                ", ".join(slot.get("providers", [])),
                _kept_up(health) if health else "",
                slot["state"] + (f" (for {slot['waits_for']})" if slot.get("waits_for") else ""),
                str(target["release"]) if target else "",
                _shadow(slot["shadow"]) if slot.get("shadow") else "",
                "; ".join(slot[kind]["detail"] for kind in ("error", "trouble") if slot.get(kind)),
            )
        )
    print_table(
        ("slot", "task", "runs release", "variant", "providers", "frames", "update", "target", "shadow", "error"), rows
    )


def _shadow(report: dict[str, Any]) -> str:
    """The candidate in a slot's shadow, and how it does."""
    text = f"{report['ref']['release']} {report['state']}, {report['disagreed']} of {report['frames']} otherwise"
    return text + (f": {report['error']['detail']}" if report["error"] else "")


def _kept_up(health: dict[str, Any]) -> str:
    """Which share of its frames a slot gets, and what became of the others."""
    lost = [f"{health[kind]} {kind}" for kind in ("dropped", "late", "expired", "shed") if health[kind]]
    return ", ".join([f"{health['share']:.0%}", *lost])


def _outage(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        start_s, length_s = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--outage {text!r}: expected START_S,SECONDS, for example 600,60") from None
    if not (0 <= start_s < math.inf and 0 < length_s < math.inf):
        raise ConfigError(f"--outage {text!r}: a start of 0 or later and a length above 0 are expected")
    return start_s, length_s


def _line(text: str) -> dict[str, object]:
    """A counting line as `[slots.X.settings]` of a profile says it."""
    name, _, ends = text.rpartition(":")
    try:
        x1, y1, x2, y2 = (float(part) for part in ends.split(","))
    except ValueError:
        raise ConfigError(f"--line {text!r}: expected NAME:X1,Y1,X2,Y2, for example mid:0,0.5,1,0.5") from None
    return {"name": name, "from": [x1, y1], "to": [x2, y2]}


@contextlib.contextmanager
def _progress(items: Iterable[Any], count: int | None) -> Iterator[Iterable[Any]]:
    """A bar on a terminal, silence elsewhere."""
    if not sys.stderr.isatty():
        yield items
        return
    with click.progressbar(items, length=count, label="inferring", file=sys.stderr) as shown:
        yield shown


main.add_command(consent)
main.add_command(install)
main.add_command(sim)
main.add_command(tail)
main.add_command(trace)


if __name__ == "__main__":
    logging.captureWarnings(True)
    main()
