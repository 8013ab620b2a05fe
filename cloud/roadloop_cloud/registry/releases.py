"""Releases: a model gets the next number of its task and is signed into the image repository."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from securesystemslib.signer import Signer
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from roadloop_cloud.registry import deltas
from roadloop_cloud.registry.ceremonies import write_request
from roadloop_cloud.registry.deltas import OnStep
from roadloop_cloud.registry.keys import KeyFolder
from roadloop_cloud.registry.models import PUBLISHED, ModelRegistry
from roadloop_cloud.registry.repository import ImageRepository, NewTarget
from roadloop_cloud.registry.sealing import SealedReleases
from roadloop_cloud.store.database import Database, now_utc
from roadloop_cloud.store.fleet_tables import Model, Release, RolloutRow
from roadloop_models.bundle import MANIFEST_NAME, Bundle
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.errors import BundleError, ConflictError, NotFoundError

_log = logging.getLogger(__name__)


class Releases:
    """Application service on the release table and the image repository."""

    def __init__(
        self,
        database: Database,
        models: ModelRegistry,
        repository: ImageRepository,
        offline_keys: KeyFolder,
        online_keys: KeyFolder,
        *,
        sealing: SealedReleases,
        sealed_tasks: Collection[str] = (),
    ) -> None:
        """Keys are read when something is signed, not before. `sealed_tasks` are sealed where nobody says otherwise."""
        self._database = database
        self._models = models
        self._repository = repository
        self._offline_keys = offline_keys
        self._online_keys = online_keys
        self._sealing = sealing
        self._sealed_tasks = frozenset(sealed_tasks)

    def create_repository(self, tasks: Iterable[str] = ()) -> None:
        """Make keys and the empty, signed repository of a new workspace, with a role for each task. Repeatable."""
        self._offline_keys.create()
        self._online_keys.create()
        named = tuple(tasks)
        for task in named:
            self._offline_keys.ensure(task)
        self._repository.create(self._offline_keys.at_hand(), self._online_keys.at_hand(), named)

    def publish(
        self,
        task: str,
        version: str,
        *,
        again: bool = False,
        sealed: bool | None = None,
        step: OnStep = lambda text, done: None,
        request: Path | None = None,
    ) -> Release:
        """Sign a registered model as a release, with patches for what vehicles run now.

        Making patches takes seconds for each file; `step` is told. Published once more, a release gets the patches for
        what vehicles run by then.
        A version that is released already keeps its number; with `again` it gets a new one, which vehicles that
        refused the old one will try. What a kill left half done is completed under the number it had.
        `sealed`: only vehicles of this fleet can read its weights; None: as the workspace has it for the task. A sealed
        release has no patches: two ciphertexts have nothing in common.
        With `request` nothing is published: what the task's key has to sign is written there, and `complete` ends it.
        Raises NotFoundError, BundleError (a file changed), ConflictError (it is released already, and not sealed or
        in clear as asked for) or ConfigError (the offline keys are not there).
        """
        model = self._models.bundle(task, version)
        with self._database.transaction() as session:
            row = _number(session, model, again)
        bundle = self._form(model, row, sealed)
        with TemporaryDirectory(prefix="patches-") as folder:
            patches = self._patches(bundle, row, Path(folder), step)
            step("sign", None)
            files = [*_targets(bundle, row), *patches]
            if request is not None:
                signers = self._signers(task)
                change = self._repository.prepare_publication(files, signers)
                change.sign(signers.values())
                write_request(request, change)
                return row
            self._repository.publish(files, self._signers(task), self._online_keys.at_hand())
        with self._database.transaction() as session:
            row = session.get_one(Release, (task, row.release))
            row.published = row.published or now_utc()
            session.get_one(Model, (task, version)).state = PUBLISHED
        return row

    def _form(self, model: Bundle, row: Release, sealed: bool | None) -> Bundle:
        """The bundle as it is published under that number, which the row names from now on."""
        if row.published is not None and sealed not in (None, row.sealed):
            how = "sealed" if row.sealed else "in clear"
            raise ConflictError(
                f"{row.task} {row.version} is published {how} as release {row.release}; --again makes another release"
            )
        wanted = row.task in self._sealed_tasks if sealed is None else sealed
        wanted = wanted if row.published is None else row.sealed
        form = self._sealing.seal(model, row.release) if wanted else model
        with self._database.transaction() as session:
            stored = session.get_one(Release, (row.task, row.release))
            stored.sealed = row.sealed = wanted
            stored.manifest_sha256 = row.manifest_sha256 = form.manifest_sha256
        return form

    def _patches(self, bundle: Bundle, release: Release, folder: Path, step: OnStep) -> Sequence[NewTarget]:
        if release.sealed:
            return ()
        prefix = f"{release.task}/{release.release}"
        wanted = deltas.pairs(bundle, self._bases(release), prefix, self._repository.targets())
        made = deltas.make_patches(wanted, folder, step)
        return [NewTarget(f"{prefix}/{patch.path}", patch.file, patch.custom) for patch in made]

    def _bases(self, release: Release) -> Sequence[Bundle]:
        """What patches are made from: the incumbent, and what most vehicles say they run."""
        others = [row for row in self.list(release.task) if row.release != release.release and not row.sealed]
        published = {row.release: row for row in others}
        with self._database.reading() as session:
            running = deltas.running_releases(session, release.task)
        try:
            numbers = dict.fromkeys([self.incumbent(release.task).release, *running])
        except NotFoundError:  # nothing is published yet
            numbers = dict.fromkeys(running)
        bases = []
        for row in [published[number] for number in numbers if number in published][: deltas.MAX_BASES]:
            try:
                bases.append(self.bundle(row))
            except BundleError as error:  # its vehicles receive whole files
                _log.warning("no patches from release %d: %s", row.release, error)
        return bases

    def patches(self, release: Release) -> Sequence[deltas.SignedPatch]:
        """The patches that a release is published with."""
        return deltas.signed_patches(self._repository.targets(), f"{release.task}/{release.release}")

    def renew_online(self) -> bool:
        """Sign snapshot and timestamp anew where it is time; returns whether it was."""
        return self._repository.renew_online(self._online_keys.at_hand())

    def complete(self) -> Sequence[Release]:
        """Note as published what was signed elsewhere meanwhile; those releases."""
        signed = self._repository.targets()
        with self._database.transaction() as session:
            rows = session.scalars(select(Release).where(Release.published.is_(None))).all()
            done = []
            for row in rows:
                target = signed.get(f"{row.task}/{row.release}/{MANIFEST_NAME}")
                if target is not None and target.hashes.get("sha256") == row.manifest_sha256:
                    row.published = now_utc()
                    session.get_one(Model, (row.task, row.version)).state = PUBLISHED
                    done.append(row)
        return done

    def _signers(self, task: str) -> Mapping[str, Signer]:
        """The offline keys at hand; a new task's key is made beside the others."""
        if self._offline_keys.directory.is_dir() and task not in self._repository.tasks():
            self._offline_keys.ensure(task)
        return self._offline_keys.at_hand()

    def list(self, task: str | None = None) -> Sequence[Release]:
        """Published releases, by task and number."""
        query = select(Release).where(Release.published.is_not(None)).order_by(Release.task, Release.release)
        with self._database.reading() as session:
            return session.scalars(query if task is None else query.where(Release.task == task)).all()

    def get(self, task: str, release: int) -> Release:
        """One published release. Raises NotFoundError."""
        with self._database.reading() as session:
            row = session.get(Release, (task, release))
        if row is None or row.published is None:
            raise NotFoundError(f"no release {release} of {task}; 'roadloop models publish' makes one")
        return row

    def incumbent(self, task: str) -> Release:
        """What the fleet runs: the release of the newest successful rollout, or the first one where there was none.

        Raises NotFoundError where the task has no release.
        """
        with self._database.reading() as session:
            spec = session.scalar(
                select(RolloutRow.spec)
                .where(RolloutRow.task == task, RolloutRow.state == "succeeded")
                .order_by(RolloutRow.updated.desc(), RolloutRow.id.desc())
                .limit(1)
            )
            number = (
                spec["release"]["release"]
                if spec is not None
                else session.scalar(select(func.min(Release.release)).where(Release.task == task))
            )
        if number is None:
            raise NotFoundError(f"task {task} has no release; 'roadloop models publish' makes one")
        return self.get(task, number)

    def bundle(self, release: Release) -> Bundle:
        """The model of a release, in clear and with its training weights, checked anew."""
        return self._models.bundle(release.task, release.version)

    def published_bundle(self, release: Release) -> Bundle:
        """The bundle of a release as vehicles have it, checked anew."""
        return self._sealing.bundle(release.task, release.release) if release.sealed else self.bundle(release)


def release_ref(release: Release) -> ReleaseRef:
    """A release as messages name it."""
    return ReleaseRef(
        task=release.task,
        release=release.release,
        version=release.version,
        manifest_sha256=release.manifest_sha256,
    )


def _number(session: Session, bundle: Bundle, again: bool) -> Release:
    task, version = bundle.manifest.task, bundle.manifest.version
    rows = session.scalars(select(Release).where(Release.task == task).order_by(Release.release)).all()
    mine = [row for row in rows if row.version == version]
    if mine and (mine[-1].published is None or not again):
        return mine[-1]
    number = rows[-1].release + 1 if rows else 1
    row = Release(task=task, release=number, version=version, manifest_sha256=bundle.manifest_sha256, published=None)
    session.add(row)
    return row


def _targets(bundle: Bundle, release: Release) -> list[NewTarget]:
    """The bundle's files but the weights that only training needs; the manifest says which release it is."""
    custom = {"task": release.task, "release": release.release, "version": release.version}
    prefix = f"{release.task}/{release.release}"
    files = [NewTarget(f"{prefix}/{MANIFEST_NAME}", bundle.directory / MANIFEST_NAME, custom)]
    for entry in bundle.manifest.files:
        if entry.path != bundle.manifest.training_weights:
            files.append(NewTarget(f"{prefix}/{entry.path}", bundle.directory / entry.path))
    return files
