"""When a benchmark has heard all that it judges."""

from tests.bench.interference import complete_until
from tests.fakes.small_cloud import Ledger


def ledger(*numbers: int) -> Ledger:
    """Samples of one boot: number n is of millisecond 10 n."""
    key = (1, "sign-decision")
    return Ledger(delivered={key: dict.fromkeys(numbers, 1)}, t_ms={key: {number: 10 * number for number in numbers}})


def test_it_is_complete_with_a_sample_from_the_end_or_later() -> None:
    assert complete_until(ledger(1, 2, 3), "sign-decision", 30)
    assert not complete_until(ledger(1, 2, 3), "sign-decision", 31)


def test_it_is_not_complete_while_one_before_is_on_its_way() -> None:
    assert not complete_until(ledger(1, 3), "sign-decision", 30)


def test_other_streams_do_not_count() -> None:
    assert not complete_until(ledger(1, 2, 3), "health", 30)
    assert not complete_until(Ledger(), "health", 30)
