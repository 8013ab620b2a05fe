"""`roadloop evidence`."""

from pathlib import Path

import click
import msgspec

from roadloop_cloud.app import Application
from roadloop_cloud.cli.options import with_output
from roadloop_cloud.cli.output import Output, details
from roadloop_cloud.workspace import Workspace
from roadloop_models.typed import from_json


@click.group()
def command() -> None:
    """Verify what `vehicles explain --export` has signed.

    \b
    Example:
      roadloop evidence verify ./van-1-signs.json
    """


@command.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--public",
    "public_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The signer's public key (PEM): then no workspace is needed.",
)
@click.option(
    "--workspace",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="ROADLOOP_WORKSPACE",
    default=".",
    show_envvar=True,
    help="The workspace that has the signer registered, where --public is not given.",
)
@with_output
def verify(output: Output, file: Path, public_file: Path | None, workspace: Path) -> None:
    """Check the signature of exported evidence. Exit code 2 where it does not hold.

    \b
    Example:
      roadloop evidence verify ./van-1-signs.json --public ./ann.pub
    """
    from roadloop_cloud.rollout.provenance import EVIDENCE
    from roadloop_cloud.rollout.statements import Signed, load_public
    from roadloop_cloud.rollout.statements import verify as verify_by
    from roadloop_models.errors import DataError

    try:
        signed = from_json(file.read_bytes(), Signed)
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: no signed evidence: {error}") from error
    if public_file is None:
        statement = Application(Workspace.open(workspace)).operators.verify(EVIDENCE, signed)
    else:
        statement = verify_by(EVIDENCE, signed, load_public(public_file))
    shown = {
        "signed by": signed.operator,
        "signed": statement.get("signed"),
        "vehicle": statement.get("vehicle"),
        "task": statement.get("task"),
        "files": ", ".join((slot.get("file") or {}).get("sha256", "-") for slot in statement.get("slots", {}).values()),
    }
    output.result({"verified": True, "operator": signed.operator, "statement": statement}, details(shown, "verified"))
