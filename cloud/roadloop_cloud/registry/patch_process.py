"""The process that makes the patches of one file: `python -m roadloop_cloud.registry.patch_process BASE TARGET FOLDER`.

Each kind appears in the folder once it has been proved by the code that vehicles apply it with. Where the process dies
of its limits, the kinds that it had made are there.
"""

import resource
import sys
from pathlib import Path

from roadloop_models.bundle.delta import PatchKind, apply_patch, make_patch

MEMORY_BYTES = 2 << 30
"""Beside what the libraries have reserved when they were loaded, which on a large machine is much."""
CPU_S = 300
ORDER: tuple[PatchKind, ...] = ("sparse-zstd", "subtract-zstd", "patch-from", "bsdiff4")
"""The one that takes most memory last."""


def main(base_path: str, target_path: str, folder: str) -> None:
    """See the module."""
    reserved_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit_bytes = reserved_bytes + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    base, target = Path(base_path).read_bytes(), Path(target_path).read_bytes()
    for kind in ORDER:
        patch = make_patch(kind, base, target)
        if apply_patch(kind, base, patch, len(target)) == target:
            partial = Path(folder) / f"{kind}.partial"
            partial.write_bytes(patch)
            partial.rename(Path(folder) / kind)


if __name__ == "__main__":
    main(*sys.argv[1:])
