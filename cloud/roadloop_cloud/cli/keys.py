"""`roadloop keys`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from roadloop_cloud.app import Application
from roadloop_cloud.cli.options import with_application, with_output, with_request
from roadloop_cloud.cli.output import Output, table

if TYPE_CHECKING:
    from roadloop_cloud.registry.ceremonies import Ceremonies, RoleKeys
    from roadloop_cloud.registry.change import Change, Unsigned
    from roadloop_cloud.registry.keys import PublicKey


def _public_key(_context: click.Context, _parameter: click.Parameter, value: Path | None) -> "PublicKey | None":
    from roadloop_cloud.registry.ceremonies import read_public_key

    return None if value is None else read_public_key(value)


with_public_key = click.option(
    "--public",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    callback=_public_key,
    help="Public part of a key that 'roadloop keys new' made elsewhere; without it a key is made here.",
)
with_keys = click.option(
    "--keys",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder that holds, or is to hold, the keys.",
)


@click.group()
def command() -> None:
    """Show signing keys, change them, keep their metadata fresh, and sign where the keys are.

    \b
    Example:
      roadloop keys show
    """


@command.command()
@with_application
def show(app: Application, output: Output) -> None:
    """Show each role's keys and where they are, the version of its metadata, and until when that is believed.

    \b
    Example:
      roadloop keys show --json
    """
    roles = [*app.ceremonies.show(), *app.director_keys.show()]
    rows = [
        {
            "role": role.role,
            "version": role.version,
            "expires": role.expires,
            "days_left": None if role.days_left is None else round(role.days_left, 2),
            "expired": role.days_left is not None and role.days_left <= 0,
            "warning": role.warning,
            "threshold": role.threshold,
            "keys": [key.keyid for key in role.keys],
            "files": {key.keyid: key.file for key in role.keys},
        }
        for role in roles
    ]
    shown = [
        (
            role.role,
            role.version,
            _until(role),
            f"{role.threshold} of {len(role.keys)}",
            "\n".join(f"{key.keyid[:8]} {key.file or 'kept elsewhere'}" for key in role.keys),
        )
        for role in roles
    ]
    output.result(rows, table(("role", "version", "expires", "must sign", "keys"), shown))


@command.command()
@click.argument("role")
@with_public_key
@with_request
@with_application
def rotate(app: Application, output: Output, role: str, public: "PublicKey | None", request: Path | None) -> None:
    """Give ROLE a new key and take its old one away.

    Vehicles learn it from what is published: they follow each new root that the one before vouches for, however long
    they were away, and refuse from then on what the old key signs.

    \b
    Example:
      roadloop keys rotate timestamp
    """
    ceremonies, name = _of(app, role)
    _done(output, f"{role} has a new key", ceremonies.rotate(name, public, request), request)


@command.command()
@click.argument("role")
@with_public_key
@click.option("--threshold", type=click.IntRange(1, 16), help="How many of the role's keys must sign from then on.")
@with_request
@with_application
def add(
    *,
    app: Application,
    output: Output,
    role: str,
    public: "PublicKey | None",
    threshold: int | None,
    request: Path | None,
) -> None:
    """Let one more key sign for ROLE.

    \b
    Example:
      roadloop keys add root --threshold 2
    """
    ceremonies, name = _of(app, role)
    _done(output, f"{role} has one more key", ceremonies.add(name, public, threshold, request), request)


@command.command()
@click.argument("role")
@click.argument("keyid")
@with_public_key
@with_request
@with_application
def revoke(
    *, app: Application, output: Output, role: str, keyid: str, public: "PublicKey | None", request: Path | None
) -> None:
    """Take the key KEYID (its first digits do) away from ROLE; where too few would be left, a new one takes its place.

    \b
    Example:
      roadloop keys revoke traffic-sign 3f2a91c0
    """
    ceremonies, name = _of(app, role)
    _done(output, f"{role}: {keyid} is revoked", ceremonies.revoke(name, keyid, public, request), request)


@command.command()
@click.argument("role")
@click.argument("count", type=click.IntRange(1, 16))
@with_request
@with_application
def threshold(app: Application, output: Output, role: str, count: int, request: Path | None) -> None:
    """Say that COUNT of ROLE's keys must sign.

    \b
    Example:
      roadloop keys threshold root 2
    """
    ceremonies, name = _of(app, role)
    _done(output, f"{role}: {count} must sign", ceremonies.set_threshold(name, count, request), request)


@command.command()
@click.argument("task")
@with_public_key
@with_request
@with_application
def delegate(app: Application, output: Output, task: str, public: "PublicKey | None", request: Path | None) -> None:
    """Give a new TASK its role and key. Publishing its first release does that too, where the keys are at hand.

    \b
    Example:
      roadloop keys delegate lane-keeping --public lane-keeping.pub --request to-sign.json
    """
    _done(output, f"{task} has its role", app.ceremonies.delegate(task, public, request), request)


@command.command()
@click.option("--offline", is_flag=True, help="Root, targets and all tasks; needs the offline keys.")
@click.option("--director", is_flag=True, help="The director's root; needs its offline key.")
@with_request
@with_application
def renew(app: Application, output: Output, offline: bool, director: bool, request: Path | None) -> None:
    """Sign metadata anew before it expires.

    The running service does it for snapshot and timestamp by itself.

    \b
    Example:
      roadloop keys renew --offline
    """
    if offline:
        _done(output, "signed anew", app.ceremonies.renew(request), request)
    elif director:
        _done(output, "signed anew", app.director_keys.renew(request), request)
    else:
        renewed = app.releases.renew_online()
        output.result({"renewed": renewed}, "signed anew" if renewed else "nothing is due yet")


@command.command()
@click.argument("role")
@with_keys
@click.option("--uri", help="Where the key is kept: hsm:[id][?label=token] or file2:/path/key.pem.")
@click.option(
    "--output",
    "public",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for the public part.  [default: ROLE.pub]",
)
@with_output
def new(output: Output, role: str, folder: Path, uri: str | None, public: Path | None) -> None:
    """Make a key for ROLE in a folder, on the machine that keeps it; needs no workspace.

    It counts as soon as 'roadloop keys rotate', 'add' or 'delegate' publishes its public part.

    \b
    Example:
      roadloop keys new root --keys /media/stick/keys --output root.pub
    """
    from roadloop_cloud.registry.ceremonies import write_public_key
    from roadloop_cloud.registry.keys import KeyFolder

    keys = KeyFolder(folder, ())
    made = keys.add(role) if uri is None else keys.refer(role, uri)
    written = public or Path(f"{role}.pub")
    write_public_key(written, made)
    output.result(
        {"role": role, "keyid": made.keyid, "public": written},
        f"key {made.keyid[:8]} of {role} is in {folder}; its public part is {written}",
    )


@command.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@with_keys
@click.option("--yes", is_flag=True, help="Do not ask: what is shown was read and compared before.")
@with_output
def sign(output: Output, file: Path, folder: Path, yes: bool) -> None:
    """Sign what the request FILE asks of the keys in a folder; needs no workspace. Read what is shown first.

    \b
    Example:
      roadloop keys sign to-sign.json --keys /media/stick/keys
    """
    from roadloop_cloud.registry.ceremonies import show_request, sign_request
    from roadloop_cloud.registry.keys import KeyFolder

    keys = KeyFolder(folder, ())
    shown = show_request(file, keys)
    for role in shown:
        output.note(
            f"{role.role}: {'changes' if role.compared else 'nothing that these keys signed before; all of it'}"
        )
        for line in role.lines:
            output.note(f"  {line}")
    if shown and not yes:
        click.confirm("Sign this?", abort=True, err=True)
    added, unsigned = sign_request(file, keys)
    output.result(
        {
            "signed": [{"role": role, "keyid": keyid} for role, keyid in added],
            "missing": _as_json(unsigned),
            "shown": {role.role: list(role.lines) for role in shown},
        },
        *([f"signed {role} by {keyid[:8]}" for role, keyid in added] or ["nothing here for these keys to sign"]),
        _next(unsigned, file),
    )


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@with_application
def import_(app: Application, output: Output, file: Path) -> None:
    """Publish the request FILE, which was signed elsewhere.

    \b
    Example:
      roadloop keys import to-sign.json
    """
    from roadloop_cloud.registry.ceremonies import repository_of
    from roadloop_cloud.registry.change import DIRECTOR

    ceremonies = app.director_keys if repository_of(file) == DIRECTOR else app.ceremonies
    change = ceremonies.import_signed(file)
    releases = app.releases.complete()
    output.result(
        {
            "changed": {role: metadata.signed.version for role, metadata in change.changed.items()},
            "released": [{"task": row.task, "release": row.release, "version": row.version} for row in releases],
        },
        *(f"{role} is version {metadata.signed.version} now" for role, metadata in change.changed.items()),
        *(f"{row.task} {row.version} is release {row.release}" for row in releases),
    )


def _of(app: Application, role: str) -> "tuple[Ceremonies, str]":
    """Whose ceremonies concern a role, and what the role is called there."""
    from roadloop_cloud.registry.director_keys import DIRECTOR_ROLES, PREFIX

    if role in DIRECTOR_ROLES:
        return app.director_keys, role.removeprefix(PREFIX)
    return app.ceremonies, role


def _until(role: "RoleKeys") -> str | None:
    if role.expires is None:
        return None
    return f"{role.expires:%Y-%m-%d} ({role.days_left:.1f} days)" + (f"\n{role.warning}" if role.warning else "")


def _done(output: Output, said: str, change: "Change", request: Path | None) -> None:
    unsigned = [] if request is None else change.unsigned()
    output.result(
        {
            "published": request is None,
            "changed": {role: metadata.signed.version for role, metadata in change.changed.items()},
            "missing": _as_json(unsigned),
        },
        said if request is None else f"written to {request}, nothing is published yet",
        *([] if request is None else [_next(unsigned, request)]),
    )


def _next(unsigned: "Any", file: Path) -> str:
    if not unsigned:
        return f"Next, beside the workspace: roadloop keys import {file}"
    lacking = "; ".join(map(str, unsigned))
    return f"{lacking}\nNext, where the keys are: roadloop keys sign {file} --keys FOLDER"


def _as_json(unsigned: "Any") -> list[dict[str, Any]]:
    found: list[Unsigned] = list(unsigned)
    return [{"role": one.role, "signatures": one.count, "keys": list(one.keyids)} for one in found]
