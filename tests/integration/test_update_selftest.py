"""The self-test in its own process: what passes, what refuses a release, and what only asks to try later."""

import hashlib
import sys
from pathlib import Path

import msgspec
import pytest

from roadloop_agent.update.selftest import Check, SubprocessSelfTest
from roadloop_models.bundle import Bundle, FileEntry, encode_manifest
from roadloop_models.errors import BundleError, GoldenMismatchError, LatencyError, RetryLaterError
from tests.fakes.bundles import WEIGHTS, tiny_bundle
from tests.fakes.slow_bundle import slowed_bundle

HERE = Check(directory="bundle", variant="onnx-int8")


def never() -> bool:
    return False


def check(bundle: Bundle, incumbent: Bundle | None = None, max_latency_ratio: float = 3.0) -> Check:
    return Check(
        directory=str(bundle.directory),
        variant="onnx-int8",
        incumbent=None if incumbent is None else str(incumbent.directory),
        max_latency_ratio=max_latency_ratio,
    )


def scripted(code: str, timeout_s: float = 30.0) -> SubprocessSelfTest:
    return SubprocessSelfTest((sys.executable, "-c", code), timeout_s)


def test_a_bundle_that_computes_what_it_should_passes(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    SubprocessSelfTest()(check(bundle), never)


def test_a_bundle_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    bundle, other = tiny_bundle(tmp_path / "bundle"), tiny_bundle(tmp_path / "other", "tiny-2", seed=1)
    content = other.path(WEIGHTS).read_bytes()
    bundle.path(WEIGHTS).write_bytes(content)
    entries = tuple(
        FileEntry(WEIGHTS, hashlib.sha256(content).hexdigest(), len(content)) if entry.path == WEIGHTS else entry
        for entry in bundle.manifest.files
    )
    raw = encode_manifest(msgspec.structs.replace(bundle.manifest, files=entries))
    (bundle.directory / "manifest.json").write_bytes(raw)
    with pytest.raises(GoldenMismatchError, match="golden vector"):
        SubprocessSelfTest()(check(bundle), never)


def test_a_truncated_bundle_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    bundle.path(WEIGHTS).write_bytes(bundle.path(WEIGHTS).read_bytes()[:-10])
    with pytest.raises(BundleError, match="truncated or changed"):
        SubprocessSelfTest()(check(bundle), never)


def test_a_runtime_that_dies_refuses_the_release() -> None:
    with pytest.raises(GoldenMismatchError, match="SIGSEGV"):
        scripted("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")(HERE, never)


def test_a_process_that_is_killed_from_outside_is_tried_later() -> None:
    with pytest.raises(RetryLaterError, match="status -9"):
        scripted("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")(HERE, never)


def test_an_agent_that_is_broken_does_not_blame_the_release() -> None:
    with pytest.raises(RetryLaterError, match="ImportError: nothing"):
        scripted("raise ImportError('nothing')")(HERE, never)


def test_endless_golden_vectors_refuse_the_release() -> None:
    with pytest.raises(GoldenMismatchError, match="longer than 0 s"):
        scripted("import threading; threading.Event().wait()", timeout_s=0.4)(HERE, never)


def test_a_newer_wish_ends_the_self_test() -> None:
    with pytest.raises(RetryLaterError, match="newer"):
        scripted("import threading; threading.Event().wait()")(HERE, lambda: True)


# Latency.


def test_a_release_that_is_too_slow_here_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    slow = slowed_bundle(bundle, tmp_path / "slow")
    with pytest.raises(LatencyError, match="3 times that is allowed"):
        SubprocessSelfTest()(check(slow, incumbent=bundle), never)
    SubprocessSelfTest()(check(slow, incumbent=bundle, max_latency_ratio=1e6), never)
    SubprocessSelfTest()(check(slow, incumbent=slow), never)
    SubprocessSelfTest()(check(slow), never)


def test_what_runs_may_be_damaged_without_blame_for_what_is_tested(tmp_path: Path) -> None:
    bundle, other = tiny_bundle(tmp_path / "bundle"), tiny_bundle(tmp_path / "other", "tiny-2", seed=1)
    other.path(WEIGHTS).write_bytes(b"")
    SubprocessSelfTest()(check(bundle, incumbent=other), never)
