"""What all tests share, and how they are dealt to several workers."""

from typing import Any

import pytest
from hypothesis import settings

# The daily run is quick; `pytest --hypothesis-profile thorough` looks further.
settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("thorough", max_examples=500, deadline=None)
settings.load_profile("quick")

APART = ("tests/e2e/test_docs.py",)
"""Files whose tests share nothing that is dear to set up: each of them may run on another worker."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile` a file's tests stay together, but for those of APART."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class Files(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith(APART) else super()._split_scope(nodeid)

    return Files(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On several workers, files that may take longest (by their time limits) begin first: nobody waits at the end."""
    if not hasattr(config, "workerinput"):
        return
    limits_s: dict[str, float] = {}
    for item in items:
        marker = item.get_closest_marker("timeout")
        limit_s = float(config.getini("timeout") if marker is None else marker.args[0])
        limits_s[item.location[0]] = max(limits_s.get(item.location[0], 0.0), limit_s)
    items.sort(key=lambda item: -limits_s[item.location[0]])
