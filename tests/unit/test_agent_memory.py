"""Handing back what only a start needed."""

import ctypes

from roadloop_agent.memory import SETTLED_S, Tidy, hand_back, library_code

MAPS = """\
55d0c0000000-55d0c0100000 r-xp 00000000 08:01 11     /usr/bin/python3.11
7f0000000000-7f0000100000 r--p 00000000 08:01 12     /usr/lib/libonnx.so.1.2
7f0000100000-7f0000300000 r-xp 00100000 08:01 12     /usr/lib/libonnx.so.1.2
7f0000300000-7f0000400000 rw-p 00300000 08:01 12     /usr/lib/libonnx.so.1.2
7f0000400000-7f0000500000 r-xp 00000000 00:00 0
7f0000500000-7f0000600000 r-xp 00000000 08:01 13     /srv/a folder/core.cpython-311-x86_64-linux-gnu.so (deleted)
7f0000600000-7f0000700000 r-xp 00000000 00:00 0      [vdso]
7f0000700000-7f0000800000 r-xp 00000000 08:01 14     /srv/a.so/model.onnx
"""


def test_only_code_of_libraries_is_handed_back() -> None:
    assert list(library_code(MAPS)) == [
        (0x7F0000100000, 0x7F0000300000),
        (0x7F0000500000, 0x7F0000600000),
    ]


def test_it_happens_once_when_all_is_quiet() -> None:
    now_s, handed = 100.0, []
    tidy = Tidy(lambda: handed.append(now_s), lambda: now_s)
    for step in range(20):
        now_s = 100.0 + step
        if step == 2:
            tidy.started()
        tidy.poll()
    assert handed == [102.0 + SETTLED_S]
    tidy.started()
    now_s += SETTLED_S
    tidy.poll()
    assert len(handed) == 2


def test_code_that_was_handed_back_still_runs() -> None:
    libc = ctypes.CDLL(None)
    hand_back()
    assert libc.abs(-3) == 3
