"""DBC: the compiled extraction against cantools' own, and what is said of a DBC that does not match."""

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_agent.drive.sources.signals.dbc import EXTENDED, Decoder, find_signal, load_dbc
from roadloop_agent.drive.sources.signals.mapping import MappedSignal
from roadloop_models.errors import ConfigError

HEAD = 'VERSION ""\nBU_: A\n'
SPEED = "Vehicle.Speed"
TOY = f"""{HEAD}
CM_ "IMPORT other.dbc";
BO_ 170 WHEELS: 8 A
 SG_ LEFT : 6|15@0+ (0.01,-67.67) [0|0] "km/h" A
 SG_ RIGHT : 16|16@1- (0.1,0) [0|0] "" A
BO_ 2566834709 LONG_ID: 4 A
 SG_ SPEED : 0|16@1+ (0.5,0) [0|0] "m/s" A
BO_ 512 MIXED: 8 A
 SG_ KIND M : 0|8@1+ (1,0) [0|0] "" A
 SG_ FIRST m0 : 8|16@1+ (1,0) [0|0] "m/s" A
 SG_ SECOND m1M : 8|8@1+ (1,0) [0|0] "" A
 SG_ THIRD m2 : 16|16@1+ (1,0) [0|0] "m/s" A
SG_MUL_VAL_ 512 FIRST KIND 0-0;
SG_MUL_VAL_ 512 SECOND KIND 1-1;
SG_MUL_VAL_ 512 THIRD SECOND 2-3;
"""


@pytest.fixture
def toy(tmp_path: Path) -> Any:
    path = tmp_path / "toy.dbc"
    path.write_text(TOY)
    return load_dbc([path])


def decoder(database: Any, *names: str, padded: bool = False, unit: str | None = "m/s") -> Decoder:
    signals = [MappedSignal(index, SPEED, name, unit) for index, name in enumerate(names)]
    return Decoder([find_signal(database, signal) for signal in signals], padded)


@st.composite
def signals(draw: st.DrawFn) -> tuple[str, int]:
    """(a line of a DBC, bytes of the message)"""
    length = draw(st.integers(1, 8) | st.sampled_from([12, 16, 24, 64]))
    kind = draw(st.sampled_from(["unsigned", "signed", "float"]))
    sizes = [size for size in (32, 64) if size <= 8 * length] if kind == "float" else []
    size = draw(st.sampled_from(sizes)) if sizes else draw(st.integers(2, min(64, 8 * length)))
    first = draw(st.integers(0, 8 * length - size))
    motorola = draw(st.booleans())
    start = (first // 8) * 8 + 7 - first % 8 if motorola else first
    scale = draw(st.sampled_from([1, 0.01, 2.5, 0.244, 1e-7]))
    offset = draw(st.sampled_from([0, -125, 67.67]))
    sign = "-" if kind == "signed" else "+"
    line = f' SG_ X : {start}|{size}@{"0" if motorola else "1"}{sign} ({scale},{offset}) [0|0] "m/s" A\n'
    text = f"{HEAD}BO_ 291 M: {length} A\n{line}"
    if sizes:
        text += f"SIG_VALTYPE_ 291 X : {1 if size == 32 else 2};\n"
    return text, length


@given(signals(), st.data())
def test_every_signal_is_decoded_as_cantools_does(made: tuple[str, int], data: st.DataObject) -> None:
    from cantools.database.can import Database

    text, length = made
    database = Database(strict=False)
    database.add_dbc_string(text)
    payload = data.draw(st.binary(min_size=length, max_size=length))
    expected: Any = database.decode_message(291, payload, decode_choices=False)
    ((index, value),) = decoder(database, "M.X").decode(291, payload)
    assert index == 0
    assert value == pytest.approx(expected["X"], rel=1e-12, abs=1e-9, nan_ok=True)


def test_units_and_corrections_are_folded_into_one_multiplication(toy: Any) -> None:
    used = find_signal(toy, MappedSignal(0, SPEED, "WHEELS.LEFT", None, 1.02, 0.5))
    ((_, value),) = Decoder([used]).decode(170, (10_000).to_bytes(2, "big") + bytes(6))
    assert value == pytest.approx(((10_000 * 0.01 - 67.67) * 1.02 + 0.5) / 3.6)


def test_only_used_messages_are_decoded_and_ids_of_29_bits_are_others(toy: Any) -> None:
    found = decoder(toy, "LONG_ID.SPEED")
    key = 2566834709 & 0x1FFFFFFF
    assert found.keys == (key | EXTENDED,)
    assert found.decode(key | EXTENDED, struct.pack("<HH", 5, 0)) == [(0, 2.5)]
    assert found.decode(key, struct.pack("<HH", 5, 0)) == () and found.decode(170, bytes(8)) == ()


def test_multiplexed_signals_are_there_only_when_their_selectors_say_so(toy: Any) -> None:
    found = decoder(toy, "MIXED.FIRST", "MIXED.THIRD")
    assert found.decode(512, bytes([0, 7, 0, 0, 0, 0, 0, 0])) == [(0, 7.0)]
    assert found.decode(512, bytes([1, 2, 9, 0, 0, 0, 0, 0])) == [(1, 9.0)]
    assert found.decode(512, bytes([1, 3, 9, 1, 0, 0, 0, 0])) == [(1, 265.0)]
    assert found.decode(512, bytes([1, 4, 9, 0, 0, 0, 0, 0])) == []
    assert found.decode(512, bytes([0, 2, 9, 0, 0, 0, 0, 0])) == [(0, 2306.0)]


def test_a_frame_of_another_length_is_counted_and_not_decoded(toy: Any) -> None:
    found = decoder(toy, "WHEELS.LEFT")
    assert found.decode(170, bytes(7)) == () and found.decode(170, bytes(12)) == ()
    assert found.decode(170, bytes(8)) != ()
    (told,) = found.mismatches()
    assert "WHEELS (0xAA): 2 of 3 frames have another length (12 bytes, the DBC says 8)" in told
    lost_zeros = decoder(toy, "WHEELS.LEFT", padded=True)
    assert lost_zeros.decode(170, b"\x27\x10") == found.decode(170, b"\x27\x10" + bytes(6))
    assert lost_zeros.decode(170, bytes(9)) == ()


def test_a_frame_of_can_fd_may_be_padded(tmp_path: Path) -> None:
    (tmp_path / "fd.dbc").write_text(f'{HEAD}BO_ 5 FD: 10 A\n SG_ X : 64|16@1+ (1,0) [0|0] "m/s" A\n')
    found = decoder(load_dbc([tmp_path / "fd.dbc"]), "FD.X")
    assert found.decode(5, bytes(8) + b"\x01\x00\xff\xff") == [(0, 1.0)]
    assert found.decode(5, bytes(16)) == () and len(found.mismatches()) == 1


@pytest.mark.parametrize(
    ("name", "unit", "says"),
    [
        ("WHEEL.LEFT", None, "no message 'WHEEL' in the DBC; did you mean 'WHEELS'"),
        ("WHEELS.LEFFT", None, "no signal 'LEFFT' in message WHEELS; did you mean 'LEFT'"),
        ("WHEELS", None, "no signal '' in message WHEELS"),
        ("WHEELS.RIGHT", None, "the DBC's unit is '': say `unit`"),
    ],
)
def test_what_a_dbc_does_not_have_is_named(toy: Any, name: str, unit: str | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        find_signal(toy, MappedSignal(0, SPEED, name, unit))


def test_a_broken_dbc_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "broken.dbc").write_text("BO_ 170 WHEELS 8 A\n")
    with pytest.raises(ConfigError, match=r"broken\.dbc: not a DBC file"):
        load_dbc([tmp_path / "broken.dbc"])
    with pytest.raises(ConfigError, match=r"nowhere\.dbc: No such file"):
        load_dbc([tmp_path / "nowhere.dbc"])
    (tmp_path / "outside.dbc").write_text(f'{HEAD}BO_ 5 M: 2 A\n SG_ X : 8|16@1+ (1,0) [0|0] "m/s" A\n')
    with pytest.raises(ConfigError, match="signal X lies outside the 2 bytes"):
        decoder(load_dbc([tmp_path / "outside.dbc"]), "M.X")
