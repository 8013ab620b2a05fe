"""The wheel in clean environments: what a vehicle installs, what it does not, and that it infers there."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import cv2
import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[2]
NOT_ON_A_VEHICLE = {
    *("torch", "torchao", "litert-torch", "ai-edge-quantizer", "onnx", "onnxscript", "tensorflow", "ray", "mlflow"),
    *("sqlalchemy", "duckdb", "deltalake", "pyarrow"),
    *("fastapi", "starlette", "uvicorn", "granian", "flask", "django", "aiohttp", "tornado", "jinja2"),
    "opencv-python",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "made.png"
    noise = np.random.default_rng(5).integers(0, 255, size=(4, 4, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, (48, 40), interpolation=cv2.INTER_CUBIC))
    return path


class Environment:
    """A virtual environment with the wheel and some of its extras, and nothing else."""

    def __init__(self, directory: Path, wheel: Path, extras: str) -> None:
        self.bin = directory / "bin"
        venv.create(directory, with_pip=True)
        self.run("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[{extras}]")
        self.run("python", "-m", "pip", "check")

    def run(self, program: str, *arguments: str) -> str:
        command = [str(self.bin / program), *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def packages(self) -> dict[str, str]:
        listing = json.loads(self.run("python", "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"))
        return {package["name"].lower().replace("_", "-"): package["version"] for package in listing}

    def factory(self) -> Path:
        program = "import roadloop_models, pathlib; print(pathlib.Path(roadloop_models.__file__).parent / 'factory')"
        return Path(self.run("python", "-c", program).strip())

    def infer(self, runtime: str, image: Path, output: Path) -> dict[str, object]:
        bundle = self.factory() / "traffic-sign"
        options = ["--bundle", str(bundle), "--runtime", runtime, "--input", str(image), "--output", str(output)]
        self.run("roadloop-agent", "infer", *options)
        (line,) = output.read_text().splitlines()
        decision: dict[str, object] = json.loads(line)
        return decision


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Environment:
    return Environment(tmp_path_factory.mktemp("today"), wheel, "agent,onnx,tflite")


def test_a_vehicle_installs_neither_torch_nor_a_web_framework(today: Environment) -> None:
    assert not NOT_ON_A_VEHICLE & today.packages().keys()


def test_the_wheel_carries_factory_bundles_and_profiles(today: Environment) -> None:
    for task in ("traffic-sign", "traffic-speed"):
        assert (today.factory() / task / "manifest.json").is_file()
        assert (today.factory() / "starter" / task / "manifest.json").is_file()
    profiles = "pathlib.Path(roadloop_agent.__file__).parent / 'firmware_configs' / 'profiles'"
    program = f"import roadloop_agent, pathlib; print(*({profiles}).glob('*.toml'))"
    assert "x86-64" in today.run("python", "-c", program)


def test_both_runtimes_infer_and_agree(today: Environment, image: Path, tmp_path: Path) -> None:
    onnx = today.infer("onnx", image, tmp_path / "onnx.jsonl")
    tflite = today.infer("tflite", image, tmp_path / "tflite.jsonl")
    assert onnx.keys() == tflite.keys() == {"input", "class_id", "label", "confidence"}
    assert onnx["class_id"] == tflite["class_id"]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime has no wheels for Python 3.12 and later")
def test_the_old_tflite_runtime_resolves_and_infers(
    tmp_path_factory: pytest.TempPathFactory, wheel: Path, today: Environment, image: Path, tmp_path: Path
) -> None:
    legacy = Environment(tmp_path_factory.mktemp("legacy"), wheel, "agent,tflite-legacy")
    packages = legacy.packages()
    assert packages["numpy"].startswith("1.") and "ai-edge-litert" not in packages
    old = legacy.infer("tflite", image, tmp_path / "old.jsonl")
    new = today.infer("tflite", image, tmp_path / "new.jsonl")
    assert old["class_id"] == new["class_id"]
    assert abs(float(str(old["confidence"])) - float(str(new["confidence"]))) < 0.05
