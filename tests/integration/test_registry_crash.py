"""A publisher that is killed anywhere leaves a repository in which a release is whole or not there."""

import shutil
from pathlib import Path

from tests.fakes.injection import killed_at
from tests.fakes.opaque_bundles import TASK, opaque_bundle
from tests.fakes.registry import Client, Registry, published

FILES = ("manifest.json", "model.onnx", "model.tflite", "golden.npz", "labels.txt")


def test_killed_at_every_call_while_publishing(tmp_path: Path) -> None:
    """SIGKILL before every call of os: a client sees all or nothing, and publishing again completes it."""
    base = tmp_path / "base"
    base.mkdir()
    made = Registry(base).create()
    published(made, tmp_path, "v1")
    made.models.register(opaque_bundle(tmp_path / "v2", "v2", weights_bytes=200).directory)
    made.database.close()
    Client(base / "repository", tmp_path / "memory").updater()

    def publish(root: Path) -> None:
        again = Registry(root)
        again.releases.publish(TASK, "v2")
        again.database.close()

    seen: list[int] = []
    killed = True
    while killed:  # "before" a call is "after" the one before it
        root = tmp_path / "killed"
        shutil.copytree(base, root)
        shutil.copytree(tmp_path / "memory", root / "memory")
        killed = killed_at(len(seen) + 1, "before", lambda root=root: publish(root))  # type: ignore[misc]
        client = Client(root / "repository", root / "memory")
        assert client.complete(f"{TASK}/1", FILES) == len(FILES), f"call {len(seen) + 1}"
        seen.append(client.complete(f"{TASK}/2", FILES))
        publish(root)
        assert client.complete(f"{TASK}/2", FILES) == len(FILES), f"call {len(seen)}"
        assert Registry(root).releases.get(TASK, 2).version == "v2"
        shutil.rmtree(root)
    assert len(seen) > 40, "the fault injection reached nothing"
    assert set(seen) == {0, len(FILES)}, "a part of a release was signed"
    assert seen[0] == 0
