"""What a command prints is what it was given, whoever said it."""

import pytest

from roadloop_cloud.cli.output import Output, details, table

WORD = "board-[/a] [red]b :car:"


def test_words_of_vehicles_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False)
    output.result({}, table((WORD,), [(WORD,)], title=WORD), details({"hardware": WORD}), WORD)
    output.note(WORD)
    shown = capsys.readouterr()
    assert shown.out.count(WORD) == 5 and WORD in shown.err
