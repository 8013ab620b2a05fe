"""How `roadloop-agent validate --log` shows signals to people."""

from collections.abc import Iterator

from roadloop_agent.validate import SlotReport

SIGNALS_HEADER = (
    "slot",
    "signal",
    "from",
    "values",
    "rate",
    "from .. to",
    "good",
    "never yet",
    "stale",
    "out of range",
    "frozen",
)


def signal_rows(report: SlotReport) -> Iterator[tuple[str, ...]]:
    """One line for each signal that a slot takes."""
    for signal in report.signals:
        span = (
            "" if signal.low is None or signal.high is None else f"{signal.low:.5g} .. {signal.high:.5g} {signal.unit}"
        )
        shares = (
            signal.ok_share,
            signal.never_share,
            signal.stale_share,
            signal.out_of_range_share,
            signal.frozen_share,
        )
        yield (
            report.slot,
            signal.path,
            signal.origin,
            str(signal.values),
            f"{signal.rate_hz:.3g} Hz",
            span,
            *(f"{share:.1%}" for share in shares),
        )
