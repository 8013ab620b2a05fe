"""Arithmetic of sequence numbers: which are accounted for, and which of a batch are fresh.

Spans are disjoint ranges (first, last), both included, ascending and never adjacent; so there is one way to write a
set of numbers. All functions are pure.
"""

from bisect import bisect_left
from collections.abc import Iterable

Span = tuple[int, int]
Spans = tuple[Span, ...]


def add(spans: Spans, first: int, last: int) -> Spans:
    """The numbers of `spans` and first..last."""
    begin = bisect_left(spans, first - 1, key=_last)
    end = begin
    while end < len(spans) and spans[end][0] <= last + 1:
        first, last = min(first, spans[end][0]), max(last, spans[end][1])
        end += 1
    return (*spans[:begin], (first, last), *spans[end:])


def add_all(spans: Spans, others: Iterable[Span]) -> Spans:
    """The numbers of both; `others` in any order."""
    for first, last in others:
        spans = add(spans, first, last)
    return spans


def missing(spans: Spans, first: int, last: int) -> Spans:
    """Which of first..last are not in `spans`."""
    found: list[Span] = []
    for low, high in spans[bisect_left(spans, first, key=_last) :]:
        if low > last:
            break
        if low > first:
            found.append((first, low - 1))
        first = high + 1
    if first <= last:
        found.append((first, last))
    return tuple(found)


def common(spans: Spans, first: int, last: int) -> Spans:
    """Which of first..last are in `spans`."""
    begin = bisect_left(spans, first, key=_last)
    found: list[Span] = []
    for low, high in spans[begin:]:
        if low > last:
            break
        found.append((max(low, first), min(high, last)))
    return tuple(found)


def count(spans: Spans) -> int:
    """How many numbers there are."""
    return sum(last - first + 1 for first, last in spans)


def prefix_and_rest(spans: Spans) -> tuple[int, Spans]:
    """The p for which all of 1..p are there (0: not even 1), and the spans beyond it."""
    if spans and spans[0][0] == 1:
        return spans[0][1], spans[1:]
    return 0, spans


def _last(span: Span) -> int:
    return span[1]
