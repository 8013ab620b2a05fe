"""What a data folder tells of its test rows: read whole or refused by line and field, and joined to the right rows."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadloop_cloud.training.evaluate import evaluate_bundle
from roadloop_models.errors import DataError
from roadloop_models.tasks import Evaluation, get_task
from roadloop_models.tasks.flow_data import write_flow
from roadloop_models.tasks.made_flow import made_flow
from roadloop_models.tasks.made_signs import made_signs
from roadloop_models.tasks.made_speeds import made_speeds
from roadloop_models.tasks.row_slices import MAX_KINDS, MAX_LABEL, MAX_VALUES, join_slices, write_slices
from roadloop_models.tasks.sign_data import write_signs
from roadloop_models.tasks.speed_data import first_test_row, write_speeds
from tests.fakes.bundles import tiny_bundle
from tests.fakes.flow_model import flow_model
from tests.fakes.speed_bundle import speed_bundle

OWN = {"class": np.array(["stop", "give way"])}


def told(folder: Path, text: str) -> Path:
    """The data file that these slices are of."""
    (folder / "rows.slices.csv").write_text(text, encoding="utf-8")
    return folder / "rows.npz"


def test_what_is_told_joins_what_the_task_knows(tmp_path: Path) -> None:
    file = told(tmp_path, 'weather, hardware\nrain,"board, old"\n,\n\n')
    found = join_slices(OWN, file, 2)
    assert {kind: labels.tolist() for kind, labels in found.items()} == {
        "class": ["stop", "give way"],
        "weather": ["rain", "unknown"],
        "hardware": ["board, old", "unknown"],
    }
    assert join_slices(OWN, tmp_path / "other.npz", 2) == OWN


def test_labels_go_with_the_rows_that_are_judged(tmp_path: Path) -> None:
    file = told(tmp_path, "weather\na\nb\nc\nd\n")
    found = join_slices({}, file, 4, np.array([3, 3, 1]))
    assert found["weather"].tolist() == ["d", "d", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header is empty"),
        ("\nrain\ndry\n", "line 1: the header is empty"),
        (",\na,b\nc,d\n", "line 1: the header is empty"),
        ("weather,\na,b\nc,d\n", "line 1: column 2 is called ''"),
        ("The Weather\na\nb\n", "line 1: column 1 is called 'The Weather'"),
        ("weather,class\na,b\nc,d\n", "line 1: field 'class' is one that the task itself tells"),
        ("weather,weather\na,b\nc,d\n", "line 1: field 'weather' is there twice"),
        ("weather\nrain\n", "1 lines below the header for the 2 rows of rows.npz; write one for each"),
        ("weather\nrain\ndry\ndry\n", "3 lines below the header for the 2 rows"),
        ("weather,road\nrain,wet\ndry\n", "line 3: 1 cells below a header of 2"),
        ("weather\nrain\ndry,wet\n", "line 3: 2 cells below a header of 1"),
        ("weather\nrain\nd\x07ry\n", r"line 3: field 'weather' is 'd\\x07ry'"),
        (f"weather\nrain\n{'d' * (MAX_LABEL + 1)}\n", "line 3: field 'weather' is 'd"),
        ('weather\nrain\n"dry\n', "not a table"),
        (f"{','.join(f'kind-{n}' for n in range(MAX_KINDS + 1))}\n", f"line 1: {MAX_KINDS + 1} columns, at most"),
    ],
)
def test_what_is_wrong_is_named_with_the_way_out(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        join_slices(OWN, told(tmp_path, text), 2)
    assert str(raised.value).startswith(str(tmp_path / "rows.slices.csv"))


def test_too_many_labels_of_a_kind_are_refused(tmp_path: Path) -> None:
    most = "vehicle\n" + "".join(f"car-{number}\n" for number in range(MAX_VALUES))
    assert len(join_slices({}, told(tmp_path, most), MAX_VALUES)["vehicle"]) == MAX_VALUES
    with pytest.raises(DataError, match=f"field 'vehicle' has {MAX_VALUES + 1} labels, at most {MAX_VALUES}; put them"):
        join_slices({}, told(tmp_path, most + "one more\n"), MAX_VALUES + 1)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.slices.csv").write_bytes(b"weather\n\xff\xfe\n")
    with pytest.raises(DataError, match="not a table"):
        join_slices({}, tmp_path / "rows.npz", 1)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.text(max_size=120), st.text(max_size=5)), min_size=1, max_size=150))
def test_whatever_words_are_written_are_read_again_row_by_row(
    tmp_path_factory: pytest.TempPathFactory, words: list[tuple[str, str]]
) -> None:
    file = tmp_path_factory.mktemp("told") / "rows.npz"
    write_slices(file, {"hardware": [first for first, _ in words], "weather": [second for _, second in words]})
    found = join_slices({}, file, len(words))
    assert set(found) == {"hardware", "weather"}
    for kind, place in (("hardware", 0), ("weather", 1)):
        assert len(set(found[kind].tolist())) <= MAX_VALUES
        for label, pair in zip(found[kind].tolist(), words, strict=True):
            word = pair[place]
            if word.isprintable() and len(word) <= MAX_LABEL and word.strip():
                assert label in {word.strip(), "other"}


def test_the_rarest_words_become_other(tmp_path: Path) -> None:
    boards = ["common"] * 3 + [f"odd {number:03}" for number in range(MAX_VALUES)]
    write_slices(tmp_path / "rows.npz", {"hardware": boards})
    found = join_slices({}, tmp_path / "rows.npz", len(boards))["hardware"].tolist()
    assert len(set(found)) == MAX_VALUES and found[:3] == ["common"] * 3
    assert [board for board, label in zip(boards, found, strict=True) if label == "other"] == ["odd 098", "odd 099"]


# Joined by the tasks


def test_signs_are_told_apart_image_by_image(tmp_path: Path) -> None:
    file = tmp_path / "gtsrb32" / "test_a.npz"
    write_signs(file, made_signs(1, 1, seed=2))
    weather = [f"weather {number % 7}" for number in range(43)]
    write_slices(file, {"weather": weather})
    bundle = tiny_bundle(tmp_path / "bundle")
    (found,) = evaluate_bundle(bundle, tmp_path).values()
    assert set(found.slices) == {"class", "light", "contrast", "weather"}
    assert found.slices["weather"].tolist() == weather
    write_slices(file, {"light": weather})
    with pytest.raises(DataError, match="test_a.slices.csv: line 1: field 'light' is one that the task itself tells"):
        evaluate_bundle(bundle, tmp_path)


def test_speeds_are_told_apart_step_by_step_of_the_whole_record(tmp_path: Path) -> None:
    rows, adjacency = made_speeds(1, seed=1)
    write_speeds(tmp_path, rows, adjacency, with_steps=False)
    weather = [f"step {step // 4}" for step in range(len(rows))]
    write_slices(tmp_path / "losloop" / "los_speed.csv", {"weather": weather})
    found = next(iter(evaluate_bundle(speed_bundle(tmp_path / "bundle"), tmp_path).values()))
    sensors = rows.speeds_mph.shape[1]
    assert _lengths(found) == {len(found.slices["weather"])}
    ahead = first_test_row(rows) + 12  # the first step that the first window forecasts
    assert found.slices["weather"][::sensors].tolist()[:5] == [f"step {(ahead + n) // 4}" for n in range(5)]
    assert (found.slices["weather"].reshape(-1, sensors) == found.slices["weather"].reshape(-1, sensors)[:, :1]).all()


def test_counts_are_told_apart_by_the_step_that_is_forecast(tmp_path: Path) -> None:
    rows = made_flow(1, seed=5)
    file = tmp_path / "pems_single" / "test.csv"
    write_flow(file, rows)
    write_slices(file, {"weather": [f"step {step // 4}" for step in range(len(rows))]})
    model = flow_model(tmp_path / "bundle", lambda flow, clock: flow[:, -1:])
    found = get_task("traffic-flow").evaluate(model.bundle, model.variant, model.runner, tmp_path)
    assert found.slices["weather"].tolist() == [f"step {step // 4}" for step in range(12, len(rows))]
    assert _lengths(found) == {len(rows) - 12}


def _lengths(found: Evaluation) -> set[int]:
    assert found.losses is not None
    return {len(found.losses), *map(len, found.slices.values())}
