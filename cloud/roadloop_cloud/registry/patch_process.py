"""The process that makes the patches of one file: `python -m roadloop_cloud.registry.patch_process BASE TARGET FOLDER`.

Each kind appears in the folder once it has been proved by the code that vehicles apply it with. Where the process dies
of its limits, the kinds that it had made are there.
"""

import resource
import sys
from pathlib import Path

from roadloop_models.bundle.delta import PatchKind, apply_patch, make_patch

MEMORY_BYTES = 3 << 30
CPU_S = 300
ORDER: tuple[PatchKind, ...] = ("sparse-zstd", "subtract-zstd", "patch-from", "bsdiff4")
"""The one that takes most memory last."""


def main(base_path: str, target_path: str, folder: str) -> None:
    """See the module."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
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
