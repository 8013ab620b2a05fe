"""Drives a run on Ray: `python -m … SPEC BUNDLE RESULT WORKERS THREADS TOKEN`. Starts all workers anew when one dies.

It is a process of its own for the same reasons as a worker, and so that the caller needs no Ray. The cluster is the one
of RAY_ADDRESS; without it one is made on this machine, and ended with this process. Its workers meet on the loopback
interface; Ray's own processes listen on all, and ask for a token.
"""

import os
import signal
import sys
from pathlib import Path
from threading import Thread
from typing import Any, TextIO

import msgspec
import ray
from ray.exceptions import RayError
from ray.util.queue import Empty, Queue

from roadloop_cloud.training.__main__ import INTERRUPTED, claim_stdout, end_with_stdin
from roadloop_cloud.training.spec import Place, TrainingProgress

RESTARTS = 3
_POLL_S = 0.2
_LOOPBACK = "127.0.0.1"


def main(arguments: list[str]) -> int:
    """Run one spec file; the result file says how it ended."""
    *files, workers, threads, token = arguments
    Thread(target=end_with_stdin, name="caller", daemon=True).start()
    progress = claim_stdout()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _connect(int(workers), int(threads))
        said = Queue()
        # A process of its own for every start of a worker: torch keeps what it was told of threads and peers.
        work = ray.remote(num_cpus=int(threads), max_retries=0, max_calls=1)(_work)
        for attempt in range(RESTARTS + 1):
            meeting = Path(files[1]).parent / f"meeting-{token}-{attempt}"
            places = [Place(rank, int(workers), str(meeting)) for rank in range(int(workers))]
            if _followed([work.remote(files, place, said) for place in places], said, progress):
                return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        ray.shutdown()
    return 1


def _connect(workers: int, threads: int) -> None:
    variables = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    if "RAY_ADDRESS" in os.environ:
        ray.init(runtime_env={"env_vars": variables})
        return
    ray.init(
        address="local",
        num_cpus=workers * threads,
        include_dashboard=False,
        _node_ip_address=_LOOPBACK,
        runtime_env={"env_vars": variables | {"GLOO_SOCKET_IFNAME": "lo"}},
    )


def _work(files: list[str], place: Place, said: Queue) -> None:
    from roadloop_cloud.training.worker import run_worker

    def report(step: TrainingProgress) -> None:
        said.put(msgspec.json.encode(step))

    run_worker(Path(files[0]), Path(files[1]), Path(files[2]), place, report)


def _followed(tasks: list[Any], said: Queue, progress: TextIO) -> bool:
    """Hand on what is said until all workers are done; False, with all of them ended, where one died."""
    waiting = tasks
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_POLL_S)
        _hand_on(said, progress)
        try:
            ray.get(done)
        except RayError as error:
            sys.stderr.write(f"a worker ended: {error}\n")
            for task in waiting:
                ray.cancel(task, force=True)
            return False
    _hand_on(said, progress)
    return True


def _hand_on(said: Queue, progress: TextIO) -> None:
    while True:
        try:
            line = said.get_nowait()
        except Empty:
            progress.flush()
            return
        progress.write(line.decode() + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
