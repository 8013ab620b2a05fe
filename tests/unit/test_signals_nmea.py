"""NMEA 0183: what sentences say, and what is left out."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_agent.drive.sources.signals import nmea
from roadloop_agent.drive.sources.signals.nmea import NmeaParser, checksum


def sentence(body: str) -> bytes:
    return f"${body}*{checksum(body.encode()):02X}\r\n".encode()


RMC = sentence("GNRMC,123519.50,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W,A")


def test_a_known_sentence_has_the_checksum_that_is_published() -> None:
    assert checksum(b"GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,") == 0x47


def test_rmc_says_time_place_speed_and_course() -> None:
    ((t_s, values),) = NmeaParser().feed(RMC)
    assert t_s == datetime(1994, 3, 23, 12, 35, 19, 500_000, UTC).timestamp()
    assert values == {
        nmea.LATITUDE: pytest.approx(48 + 7.038 / 60),
        nmea.LONGITUDE: pytest.approx(11 + 31 / 60),
        nmea.SPEED: pytest.approx(22.4 * 1852 / 3600),
        nmea.HEADING: pytest.approx(math.radians(84.4)),
    }


def test_south_and_west_are_negative() -> None:
    ((_, values),) = NmeaParser().feed(sentence("GPGGA,010203,3354.0,S,07030.0,W,2,08,0.9,-12.5,M,46.9,M,,"))
    assert values == {
        nmea.LATITUDE: pytest.approx(-33.9),
        nmea.LONGITUDE: pytest.approx(-70.5),
        nmea.ALTITUDE: -12.5,
    }


def test_vtg_and_gst() -> None:
    parser = NmeaParser()
    parser.feed(RMC)
    ((_, speed),) = parser.feed(sentence("GPVTG,054.7,T,034.4,M,005.5,N,036.0,K,A"))
    assert speed == {nmea.SPEED: pytest.approx(10.0), nmea.HEADING: pytest.approx(math.radians(54.7))}
    ((_, accuracy),) = parser.feed(sentence("GPGST,123520,1.2,,,,3.0,4.0,6.0"))
    assert accuracy == {nmea.ACCURACY: pytest.approx(5 / math.sqrt(2))}


@pytest.mark.parametrize(
    "body",
    [
        "GNRMC,123519,V,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W,N",
        "GPGGA,123519,4807.038,N,01131.000,E,0,08,0.9,545.4,M,46.9,M,,",
        "GPGGA,123519,4807.038,N,01131.000,E,6,08,0.9,545.4,M,46.9,M,,",
        "GPVTG,054.7,T,034.4,M,005.5,N,010.2,K,N",
        "GPGST,123519,,,,,,,",
    ],
)
def test_without_a_fix_nothing_is_said(body: str) -> None:
    parser = NmeaParser()
    assert [values for _, values in parser.feed(sentence(body))] == [{}] and parser.damaged == 0


@pytest.mark.parametrize(
    "line",
    [
        RMC.replace(b"22.4", b"92.4"),
        RMC[:30] + b"\r\n",
        b"no NMEA at all\r\n",
        b"\xb5\x62\x01\x07\x5c\x00\xff\xfe\n",
        sentence("GNRMC,126519,A,4807.038,N,01131.000,E,022.4,084.4,230394,,,A"),
        sentence("GNRMC,123519,A,4897.038,N,01131.000,E,022.4,084.4,230394,,,A"),
        sentence("GNRMC,123519,A,4807.038,N,01131.000,E,fast,084.4,230394,,,A"),
        sentence("GNRMC,123519,A"),
    ],
)
def test_damaged_lines_are_counted_and_the_next_is_read(line: bytes) -> None:
    parser = NmeaParser()
    assert len(parser.feed(line + RMC)) == 1
    assert (parser.damaged, parser.sentences) == (1, 1)


def test_other_sentences_are_no_damage() -> None:
    parser = NmeaParser()
    assert parser.feed(sentence("GPGSV,3,1,11,03,03,111,00,04,15,270,00,06,01,010,00,13,06,292,00")) == []
    assert parser.damaged == 0


def test_a_line_without_an_end_is_not_kept() -> None:
    parser = NmeaParser()
    for _ in range(100):
        assert parser.feed(b"x" * 1000) == []
    assert len(parser.feed(b"\n" + RMC)) == 1
    assert parser.damaged == 1


def test_time_goes_on_past_midnight_before_the_date_does() -> None:
    parser = NmeaParser()
    ((before, _),) = parser.feed(sentence("GNRMC,235959.00,A,4807.038,N,01131.000,E,1,2,230394,,,A"))
    ((after, _),) = parser.feed(sentence("GPGGA,000000.00,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,"))
    assert before is not None and after == before + 1
    ((dated, _),) = parser.feed(sentence("GNRMC,000000.00,A,4807.038,N,01131.000,E,1,2,240394,,,A"))
    assert dated == after


def test_before_a_date_there_is_no_time() -> None:
    parser = NmeaParser()
    ((t_s, _),) = parser.feed(sentence("GPGGA,000000.00,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,"))
    assert t_s is None


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_no_bytes_break_it_and_cuts_do_not_matter(parts: list[bytes]) -> None:
    whole, cut = NmeaParser(), NmeaParser()
    data = b"".join(parts)
    expected = [values for _, values in whole.feed(data + b"\n" + RMC)]
    found = [values for part in [*parts, b"\n", RMC] for _, values in cut.feed(part)]
    assert found[-1] == expected[-1]
    assert len(found) == len(expected)
