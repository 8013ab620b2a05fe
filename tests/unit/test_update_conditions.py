"""When a release that is ready may switch: windows of local time, parked, consent, and what its shadow has shown."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from click.testing import CliRunner

from roadloop_agent.cli import main
from roadloop_agent.cli_consent import asked
from roadloop_agent.ipc import Parked
from roadloop_agent.update.conditions import ENOUGH_SHADOW_FRAMES, Facts, is_within, refusal, waits_for
from roadloop_agent.update.consent import MAX_WORDS, Consents, Word
from roadloop_agent.update.latency import FLOOR_US, check_latency, is_too_slow, typical_us
from roadloop_agent.update.surroundings import JUMP_S, PARKED_STALE_S, STEADY_S, LocalClock, VehicleSurroundings
from roadloop_models.contract.messages import (
    MaintenanceWindow,
    Policy,
    ReleaseRef,
    ReportedSlot,
    ShadowReport,
    SwitchWhen,
)
from roadloop_models.errors import LatencyError, NotFoundError

REF = ReleaseRef(task="traffic-sign", release=2, version="v2", manifest_sha256="2" * 64)
OTHER = ReleaseRef(task="traffic-sign", release=3, version="v3", manifest_sha256="3" * 64)
MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
NIGHT = MaintenanceWindow(from_minute=22 * 60, to_minute=4 * 60, weekdays=(1, 5))
NOON = MaintenanceWindow(from_minute=12 * 60, to_minute=13 * 60)


def at(day: int, hour: int, minute: int = 0) -> datetime:
    """Day 1: Monday."""
    return MONDAY + timedelta(days=day - 1, hours=hour, minutes=minute)


# Maintenance windows.


@pytest.mark.parametrize(
    ("day", "hour", "minute", "inside"),
    [(1, 11, 59, False), (1, 12, 0, True), (7, 12, 59, True), (1, 13, 0, False)],
)
def test_a_window_within_a_day(day: int, hour: int, minute: int, inside: bool) -> None:
    assert is_within(NOON, at(day, hour, minute)) is inside


@pytest.mark.parametrize(
    ("day", "hour", "inside"),
    [
        (1, 21, False),
        (1, 23, True),
        (2, 3, True),
        (2, 4, False),
        (2, 23, False),
        (3, 3, False),
        (6, 3, True),
        (1, 3, False),
    ],
)
def test_a_window_past_midnight_belongs_to_the_day_on_which_it_begins(day: int, hour: int, inside: bool) -> None:
    assert is_within(NIGHT, at(day, hour)) is inside


def test_it_is_the_vehicles_own_local_time_that_counts() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert is_within(NOON, datetime(2026, 11, 23, 3, 30, tzinfo=UTC).astimezone(tokyo))


def test_any_of_several_windows_will_do() -> None:
    when = SwitchWhen(windows=(NOON, NIGHT))
    assert waits_for(when, "sign", REF, Facts(local=at(1, 23))) == ()
    assert waits_for(when, "sign", REF, Facts(local=at(1, 20))) == ("a maintenance window",)


def test_without_a_time_that_can_be_believed_no_window_is_open() -> None:
    assert waits_for(SwitchWhen(windows=(NOON,)), "sign", REF, Facts()) == ("a clock that can be believed",)


# Parked, consent, all of it.


@pytest.mark.parametrize(
    ("parked", "missing"), [(True, ()), (False, ("a parked vehicle",)), (None, ("word whether it is parked",))]
)
def test_nothing_that_says_so_is_not_parked(parked: bool | None, missing: tuple[str, ...]) -> None:
    assert waits_for(SwitchWhen(parked=True), "sign", REF, Facts(parked=parked)) == missing


def test_all_that_is_asked_for_must_hold() -> None:
    when = SwitchWhen(windows=(NOON,), parked=True, consent=True)
    facts = Facts(local=at(1, 12), parked=True, consents={("sign", REF): True})
    assert waits_for(when, "sign", REF, facts) == ()
    assert waits_for(when, "sign", OTHER, facts) == ("consent",)
    assert len(waits_for(when, "sign", REF, Facts())) == 3


def test_consent_is_asked_for_only_where_the_policy_says_so() -> None:
    facts = Facts(consents={("sign", REF): False})
    assert refusal(Policy(), "sign", REF, facts) is None
    asks = Policy(switch_when=SwitchWhen(consent=True))
    error = refusal(asks, "sign", REF, facts)
    assert error is not None and error.code == "consent-refused"
    assert refusal(asks, "speed", REF, facts) is None


# What the shadow has shown.


def shadow(frames: int, disagreed: int, ref: ReleaseRef = REF) -> Facts:
    return Facts(shadows={"sign": ShadowReport(ref=ref, state="running", frames=frames, disagreed=disagreed)})


def test_a_release_that_disagreed_too_often_in_the_shadow_never_switches() -> None:
    policy = Policy(max_disagreement=0.1)
    error = refusal(policy, "sign", REF, shadow(1000, 101))
    assert error is not None and error.code == "disagreement" and "10.1% of 1000 frames" in error.detail
    assert refusal(policy, "sign", REF, shadow(1000, 100)) is None
    assert refusal(Policy(), "sign", REF, shadow(1000, 1000)) is None, "only where the policy bounds it"
    assert refusal(policy, "sign", REF, shadow(1000, 1000, OTHER)) is None, "another release was in the shadow"
    assert refusal(policy, "sign", REF, shadow(ENOUGH_SHADOW_FRAMES - 1, ENOUGH_SHADOW_FRAMES - 1)) is None


# The clock.


class Clocks:
    def __init__(self, wall: datetime | None = None) -> None:
        self.wall, self.uptime = wall or at(1, 12), 1000.0
        self.floor: datetime | None = None
        self.local = LocalClock(lambda: self.wall, lambda: self.uptime, lambda: self.floor)

    def passes(self, seconds: float) -> datetime | None:
        self.uptime += seconds
        self.wall += timedelta(seconds=seconds)
        return self.local()


def test_a_clock_is_believed_once_it_has_gone_on_evenly() -> None:
    clocks = Clocks()
    assert clocks.local() is None and clocks.passes(STEADY_S - 1) is None
    assert clocks.passes(1) == at(1, 12, 1)


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0, JUMP_S + 1])
def test_a_clock_that_jumps_opens_no_window(jump_s: float) -> None:
    clocks = Clocks()
    clocks.local()
    assert clocks.passes(STEADY_S) is not None
    clocks.wall += timedelta(seconds=jump_s)
    assert clocks.passes(1) is None
    assert clocks.passes(STEADY_S) is not None, "after a while it is believed again"


def test_a_clock_behind_what_is_known_to_be_past_is_not_believed() -> None:
    clocks = Clocks(datetime(1970, 1, 1, 12, tzinfo=UTC))
    clocks.floor = at(1, 0)
    clocks.local()
    assert clocks.passes(10 * STEADY_S) is None
    clocks.wall = at(1, 12)
    clocks.local()
    assert clocks.passes(STEADY_S) is not None


def test_a_suspend_is_no_jump() -> None:
    clocks = Clocks()
    clocks.local()
    clocks.passes(STEADY_S)
    assert clocks.passes(8 * 3600.0) is not None, "both clocks go on in a suspend"


def test_whether_it_is_parked_is_forgotten_when_drive_is_silent(tmp_path: Path) -> None:
    now_s = [0.0]
    surroundings = VehicleSurroundings(Consents(tmp_path), lambda: None, lambda: now_s[0])
    assert surroundings().parked is None
    surroundings.hear(Parked(boot=1, parked=True))
    now_s[0] = PARKED_STALE_S
    assert surroundings().parked is True
    now_s[0] += 1
    assert surroundings().parked is None


# Consent.


def test_consent_is_remembered_and_can_be_read_at_once(tmp_path: Path) -> None:
    reader, writer = Consents(tmp_path), Consents(tmp_path)
    assert reader.words() == {}
    writer.say(Word(slot="sign", ref=REF, granted=True))
    assert reader.words() == {("sign", REF): True}
    writer.say(Word(slot="sign", ref=REF, granted=False))
    writer.say(Word(slot="sign", ref=OTHER, granted=True))
    assert reader.words() == {("sign", REF): False, ("sign", OTHER): True}
    assert Consents(tmp_path).words() == reader.words(), "also after a restart"
    assert (tmp_path / "consents.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"words": [{"slot": 1}]}'])
def test_a_damaged_file_says_nothing_and_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    consents = Consents(tmp_path)
    consents.say(Word(slot="sign", ref=REF, granted=True))
    (tmp_path / "consents.json").write_bytes(content)
    assert consents.words() == {}
    consents.say(Word(slot="sign", ref=OTHER, granted=True))
    assert consents.words() == {("sign", OTHER): True}


def test_words_are_bounded(tmp_path: Path) -> None:
    consents = Consents(tmp_path)
    for number in range(1, MAX_WORDS + 10):
        ref = ReleaseRef(task="traffic-sign", release=number, version="v", manifest_sha256="0" * 64)
        consents.say(Word(slot="sign", ref=ref, granted=True))
    words = consents.words()
    assert len(words) == MAX_WORDS and max(ref.release for _, ref in words) == MAX_WORDS + 9


def ready(ref: ReleaseRef, waits: str) -> ReportedSlot:
    return ReportedSlot(
        task=ref.task, running=None, runtime="onnx", precision="int8", state="ready", target=ref, waits_for=waits
    )


def test_only_what_waits_for_consent_can_be_consented_to() -> None:
    slots = {"sign": ready(REF, "a parked vehicle, consent"), "speed": ready(OTHER, "a parked vehicle, slot sign")}
    assert asked(slots, None, None) == [("sign", REF)]
    assert asked(slots, "sign", 2) == [("sign", REF)]
    for slot, release in (("speed", None), (None, 3)):
        with pytest.raises(NotFoundError, match="slot sign: release 2"):
            asked(slots, slot, release)


def test_the_command_shows_an_example() -> None:
    done = CliRunner().invoke(main, ["consent", "--help"])
    assert done.exit_code == 0 and "Example: roadloop-agent consent" in done.output


# Latency before the switch.


def test_noise_of_the_machine_does_not_count() -> None:
    assert typical_us([100.0, 5000.0, 90.0, 110.0, 9000.0, 95.0]) == 95.0


@pytest.mark.parametrize(
    ("candidate_us", "incumbent_us", "ratio", "slow"),
    [
        (FLOOR_US, 10.0, 3.0, False),  # a hundred times slower, and still fast
        (FLOOR_US + 1, 10.0, 3.0, True),
        (2_999.0, 1_000.0, 3.0, False),
        (3_001.0, 1_000.0, 3.0, True),
        (3_001.0, 1_000.0, 3.5, False),
    ],
)
def test_the_policy_says_how_much_slower_a_release_may_be(
    candidate_us: float, incumbent_us: float, ratio: float, slow: bool
) -> None:
    times = [candidate_us] * 8, [incumbent_us] * 8
    assert is_too_slow(*times, ratio) is slow
    if slow:
        with pytest.raises(LatencyError, match="us an inference on this vehicle"):
            check_latency(*times, ratio)
    else:
        check_latency(*times, ratio)
