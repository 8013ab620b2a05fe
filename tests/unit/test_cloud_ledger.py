"""The ledger's arithmetic against plain sets of numbers."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from roadloop_cloud.ingest import ledger
from roadloop_cloud.ingest.ledger import Span, Spans

spans_drawn = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 12)).map(lambda pair: (pair[0], sum(pair))))
span_drawn = st.tuples(st.integers(1, 60), st.integers(0, 12)).map(lambda pair: (pair[0], sum(pair)))


def numbers(spans: Spans | list[Span]) -> set[int]:
    return {number for first, last in spans for number in range(first, last + 1)}


@given(spans_drawn)
def test_spans_hold_what_was_added_in_their_one_form(added: list[Span]) -> None:
    spans = ledger.add_all((), added)
    assert numbers(spans) == numbers(added)
    assert ledger.count(spans) == len(numbers(added))
    assert all(before[1] + 1 < after[0] for before, after in pairwise(spans))
    assert ledger.add_all((), reversed(added)) == spans


@given(spans_drawn, span_drawn)
def test_missing_and_common_divide_a_span(added: list[Span], asked: Span) -> None:
    spans = ledger.add_all((), added)
    fresh, known = ledger.missing(spans, *asked), ledger.common(spans, *asked)
    assert numbers(fresh) == numbers([asked]) - numbers(added)
    assert numbers(known) == numbers([asked]) & numbers(added)


@given(spans_drawn)
def test_prefix_is_where_the_first_gap_begins(added: list[Span]) -> None:
    spans = ledger.add_all((), added)
    prefix, rest = ledger.prefix_and_rest(spans)
    assert set(range(1, prefix + 1)) | numbers(rest) == numbers(spans)
    assert prefix + 1 not in numbers(spans)


def test_adding_what_is_there_changes_nothing() -> None:
    assert ledger.add(((1, 100),), 20, 30) == ((1, 100),)


def test_numbers_beyond_any_array_cost_nothing() -> None:
    far = (1 << 53) - 1
    assert ledger.missing(((1, 5), (far, far)), 1, far) == ((6, far - 1),)
