import subprocess
import sys

import pytest

# Many types, each asked for by all threads at once, with threads that take turns as often as they can.
_RACE = """
import sys, threading
import msgspec
from roadloop_models.typed import from_builtins, from_json, from_msgpack

sys.setswitchinterval(1e-6)
types = []
for number in range(60):
    inner = msgspec.defstruct(f"Inner{number}", [("a", "int"), ("b", "dict[str, int]"), ("c", "list[str]")])
    fields = [("x", inner), ("y", "int"), ("z", dict[str, inner]), ("w", "float")]
    types.append(msgspec.defstruct(f"Outer{number}", fields))
found = {"x": {"a": 1, "b": {}, "c": []}, "y": 1, "z": {}, "w": 1.0}
text, packed = msgspec.json.encode(found), msgspec.msgpack.encode(found)

def read(barrier, kind):
    barrier.wait()
    made = [from_json(text, kind), from_msgpack(packed, kind), from_builtins(found, kind)]
    assert made == [made[0]] * 3

for kind in types:
    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=read, args=(barrier, kind)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print("read", len(types))
"""


def test_threads_that_read_a_type_for_the_first_time_at_once_do_not_end_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", _RACE], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "read 60\n"), done.stderr


@pytest.mark.parametrize("kind", [dict[str, int], dict[str, int] | None])
def test_what_is_no_struct_is_read_too(kind: object) -> None:
    from roadloop_models.typed import from_builtins, from_json

    assert from_json(b'{"a": 1}', kind) == from_builtins({"a": 1}, kind) == {"a": 1}
