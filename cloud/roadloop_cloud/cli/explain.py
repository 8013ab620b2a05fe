"""`roadloop vehicles explain`."""

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from roadloop_cloud.app import Application
from roadloop_cloud.cli.options import with_application
from roadloop_cloud.cli.output import Output
from roadloop_cloud.cli.rollout_options import required_signatory, signatory_options
from roadloop_cloud.store.database import now_utc


@click.command("explain")
@click.argument("vehicle_id", metavar="ID")
@click.option("--task", required=True, help="Which of its models.")
@click.option(
    "--export", "export_file", type=click.Path(path_type=Path, dir_okay=False), help="Write it as signed evidence."
)
@signatory_options
@with_application
def explain(
    *,
    app: Application,
    output: Output,
    vehicle_id: str,
    task: str,
    export_file: Path | None,
    operator: str | None,
    key_file: Path | None,
) -> None:
    """Why this model is on this vehicle: file, release, rollout, approvals, evaluation, training rows.

    \b
    Example:
      roadloop vehicles explain van-1 --task traffic-sign
      roadloop vehicles explain van-1 --task traffic-sign --export ./van-1.json --as ann --key ~/ann.pem
    """
    found = app.provenance.explain(vehicle_id, task)
    if export_file is not None:
        from roadloop_cloud.files import write_atomic
        from roadloop_cloud.rollout.provenance import EVIDENCE

        who = required_signatory(operator, key_file)
        app.operators.check(who)
        signed = who.sign(EVIDENCE, {**found, "signed": now_utc().isoformat()})
        write_atomic(export_file, msgspec.json.format(msgspec.json.encode(signed), indent=1) + b"\n")
        output.note(f"signed by {who.name}: {export_file}")
    output.result(found, *(_slot(name, found, slot) for name, slot in found["slots"].items()))


def _slot(name: str, found: dict[str, Any], slot: dict[str, Any]) -> RenderableType:
    running = slot["running"]
    runs = "nothing" if running is None else f"{running['task']} {running['version']}"
    tree = Tree(Text(f"{found['vehicle']}, slot {name}: {runs} on {slot['variant']}", style="bold"))
    file = slot.get("file")
    if file is not None:
        tree.add(
            f"file        {file['path']}  {file['sha256'][:16]}…  {file['size_bytes']:,} bytes, {file['quantizer']}"
        )
    if slot.get("release"):
        release = slot["release"]
        _add(
            tree, f"release     {release['release']}, signed {release['published']}, {release['manifest_sha256'][:16]}…"
        )
    for rollout in slot.get("rollouts", ()):
        _rollout(tree, rollout)
    if slot.get("evaluation"):
        metrics = ", ".join(f"{key} {value:.4g}" for key, value in slot["evaluation"].get("metrics", {}).items())
        _add(tree, f"evaluated   {metrics} on {slot['evaluation'].get('rows')} rows")
    for step, model in enumerate(slot.get("lineage", ())):
        _add(tree, f"{'model     ' if step == 0 else 'made from '}  {model['version']}: {model.get('command') or '-'}")
    snapshot = slot.get("snapshot")
    if snapshot is not None:
        sources = ", ".join(f"{vehicle} {number}" for vehicle, number in list(snapshot.get("sources", {}).items())[:6])
        _add(tree, f"trained on  snapshot {snapshot['sha256'][:16]}…, {snapshot.get('rows')} rows: {sources}")
    if slot.get("job"):
        _add(tree, f"job         {slot['job']['id']} ({slot['job']['kind']}), finished {slot['job']['finished']}")
    gaps = [Text(f"not known: {gap}", style="yellow") for gap in slot["gaps"]]
    return Group(tree, *gaps)


def _rollout(tree: Tree, rollout: dict[str, Any]) -> None:
    by = f", asked for by {rollout['created_by']}" if rollout["created_by"] else ""
    branch = tree.add(
        f"rollout     {rollout['id']} ({rollout['state']}), wave {rollout['wave']}, {rollout['offered']}{by}"
    )
    for proof in rollout["shadow"]:
        _add(branch, f"shadow: {proof['decision']} after {proof['frames']} frames of {proof['vehicles']} vehicles")
    for statement in rollout["statements"]:
        said = statement["statement"]
        what = said.get("decision", "created")
        mark = "verified" if statement["verified"] else "NOT verified"
        wave = f" wave {said['wave']}" if "wave" in said else ""
        _add(branch, f"{what}{wave} by {statement['operator']}, {said.get('time')}: signature {mark}")


def _add(tree: Tree, text: str) -> Tree:
    return tree.add(Text(text))
