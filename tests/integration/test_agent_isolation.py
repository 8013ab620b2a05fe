"""The agent's processes one by one: what each loads, that it ends with its parent, what a kill leaves of the spool."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from roadloop_agent.link.spool import Spool


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (
            "roadloop_agent.app.drive",
            "cv2 onnxruntime ai_edge_litert paho tuf sqlalchemy sqlitedict cryptography torch",
        ),
        ("roadloop_agent.drive.sources.speeds, roadloop_agent.drive.slots", "cv2 onnxruntime ai_edge_litert"),
        (
            "roadloop_agent.app.link",
            "cv2 onnxruntime ai_edge_litert tflite_runtime torch sqlalchemy tuf.ngclient",
        ),
        (
            "roadloop_agent.app.__main__, roadloop_agent.app.start, roadloop_agent.supervisor",
            "numpy cv2 paho tuf onnxruntime sqlitedict",
        ),
        ("roadloop_agent.cli", "numpy cv2 paho tuf onnxruntime sqlitedict"),
    ],
)
def test_a_process_loads_only_its_own(modules: str, forbidden: str) -> None:
    code = f"import sys, {modules}; print(*[name for name in {forbidden.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_child_ends_with_its_parent() -> None:
    script = (
        "import os, subprocess, sys, time\n"
        "code = 'import os, sys, time; from roadloop_agent.supervisor import die_with_parent;'\n"
        "code += 'die_with_parent(int(sys.argv[1])); print(os.getpid(), flush=True); time.sleep(60)'\n"
        "child = subprocess.Popen([sys.executable, '-c', code, str(os.getpid())])\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        assert parent.stdout.read() == ""  # closed when the child is gone as well
        assert not Path(f"/proc/{child}/exe").exists()


def test_a_parent_that_is_gone_already_is_noticed() -> None:
    code = "from roadloop_agent.supervisor import die_with_parent; die_with_parent(1 << 30); print('lives')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_a_kill_in_the_middle_of_writing_loses_nothing_that_append_returned_from(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from collections import deque
        from pathlib import Path
        from roadloop_agent.link.batcher import SealedBatch
        from roadloop_agent.link.spool import Spool
        spool = Spool(Path(sys.argv[1]), 1 << 26, 60.0, 0.0)
        for seq in range(1, 100_000):
            spool.append(deque([SealedBatch(1, "road-speed", seq, seq, bytes(3000))]), 0.0)
            print(seq, flush=True)
        """
    )
    path = tmp_path / "spool.sqlite"
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(50):
            written = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
        written = int(rest[-1]) if rest else written
    spool = Spool(path, 1 << 26, 60.0, 0.0)
    numbers = [row.first_seq for row in spool.pending(100_000)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= written
