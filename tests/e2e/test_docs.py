"""The documentation's commands, run as they stand, page by page: each `sh` block in order, `&` in the background."""

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import cv2
import pytest

from roadloop_cloud.app import Application
from roadloop_cloud.workspace import Workspace
from roadloop_models.packaged import packaged_bundles
from roadloop_models.tasks import get_task
from roadloop_models.tasks.made_signs import made_signs
from roadloop_models.tasks.made_speeds import made_speeds
from roadloop_models.tasks.sign_data import FOLDER as SIGNS
from roadloop_models.tasks.sign_data import TEST_FILE, TRAIN_FILE, write_signs
from roadloop_models.tasks.speed_data import write_speeds
from tests.fakes.detector_files import fastestdet_file, write_labels
from tests.fakes.published_layouts import write_downloads

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
BIN = Path(sys.executable).parent
WAIT_S = 120.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Reader:
    """Somebody who types a page's commands into a shell, in a folder of their own."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}{os.pathsep}/usr/sbin",
            "FACTORY": str(packaged_bundles()["traffic-sign"].parent),
            "DATA": str(data),
            "OBJECTS": str(data),
            "DOWNLOADS": str(data / "downloads"),
        }
        self.port, self.files_port = _free_ports(2)
        self.background: list[subprocess.Popen[bytes]] = []

    def run(self, block: str) -> None:
        """Type one block. A command that fails fails the test with what it said."""
        running = len(self.background)
        for typed in block.strip().splitlines():
            command = re.sub(r"^roadloop init \./fleet", rf"\g<0> --port {self.port}", typed)
            command = re.sub(r"--files-port \d+", f"--files-port {self.files_port}", command)
            if command.rstrip().endswith("&"):
                words = shlex.split(command.rstrip().removesuffix("&"))
                log = (self.folder / f"background-{len(self.background)}.log").open("wb")
                self.background.append(
                    subprocess.Popen(words, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
                )
                continue
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=self.folder,
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        if len(self.background) > running:
            self.settle()

    def settle(self) -> None:
        """Wait until what was started is up: the broker answers, and every vehicle that runs has sent something."""
        started = [shlex.join(map(str, process.args)) for process in self.background]  # type: ignore[arg-type]
        if any("roadloop up" in command for command in started):
            self.until(self.broker_answers)
        if agents := sum("roadloop-agent run" in command for command in started):
            self.until(lambda: self.online() == agents and self.stored() > 0)

    def until(self, reached: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not reached():
            assert time.monotonic() < deadline_s, self.logs()
            time.sleep(0.2)

    def broker_answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def online(self) -> int:
        return sum(vehicle.online and vehicle.reported is not None for vehicle in self.fleet.vehicles.list())

    def stored(self) -> int:
        return sum(stream.stored for stream in self.fleet.telemetry.gaps() if stream.stream == "sign-decision")

    @cached_property
    def fleet(self) -> Application:
        """Looks at what the commands have made: asking by commands takes as long as what is waited for."""
        return Application(Workspace.open(self.folder / "fleet"))

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("background-*.log"))

    def stop(self) -> None:
        if "fleet" in vars(self):
            self.fleet.database.close()
        for process in reversed(self.background):
            process.terminate()
        for process in reversed(self.background):
            process.wait(30)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as open_sockets:
        probes = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture
def reader(tmp_path: Path, made_data: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path, made_data)
    yield reader
    reader.stop()


@pytest.fixture(scope="module")
def made_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few signs and speeds: the pages show what is typed, and other tests what is learned."""
    folder = tmp_path_factory.mktemp("made-data")
    write_signs(folder / SIGNS / TRAIN_FILE, made_signs(3, 2, seed=3))
    write_signs(folder / SIGNS / TEST_FILE, made_signs(2, 1, seed=4))
    rows, adjacency = made_speeds(4, seed=3)
    write_speeds(folder, rows, adjacency, with_steps=False)
    get_task("object-detection").write_made_data(folder, seed=3)
    write_detector(folder)
    write_downloads(folder / "downloads")
    return folder


def write_detector(folder: Path) -> None:
    """A made detector under the name of a real one, and a clip of what it finds."""
    (folder / "models").mkdir()
    (folder / "video").mkdir()
    fastestdet_file(folder / "models" / "FastestDet.onnx")
    write_labels(folder / "models" / "coco.names")
    clip = folder / "video" / "solidWhiteRight.mp4"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 64))
    for path in sorted((folder / "objects").glob("*.png")):
        writer.write(cv2.imread(str(path)))
    writer.release()


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_the_commands_of_a_page_work(page: Path, reader: Reader) -> None:
    found = blocks(page)
    assert found, f"{page.name} shows no command"
    for block in found:
        reader.run(block)


def test_the_readme_names_only_commands_that_exist() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for program in re.findall(r"\b(scripts/[a-z]+)\b", text):
        path = REPOSITORY / program
        assert path.is_file() and os.access(path, os.X_OK), program
    for group, command in re.findall(r"`roadloop ([a-z]+)(?: ([a-z]+))?", text):
        words = [word for word in (group, command) if word]
        subprocess.run([str(BIN / "roadloop"), *words, "--help"], check=True, capture_output=True)
