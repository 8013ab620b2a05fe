import pytest

from roadloop_cloud.training.card import CardFigures, CardTexts, model_card
from roadloop_cloud.training.spec import DataSource, TrainingSpec

TEXTS = CardTexts("Published rows.", "Top-1 accuracy.", "Test rows were looked at.", "Day only.")
FIGURES = CardFigures(TEXTS, "CNN", "90 images of 9 tracks", 1000, 3, "validation_error", 0.1, False, None, {}, {})


def _card(data_name: str | None, snapshot_sha256: str | None) -> str:
    spec = TrainingSpec(
        task="traffic-sign",
        version="v2",
        data=DataSource("data"),
        data_name=data_name,
        snapshot_sha256=snapshot_sha256,
    )
    return model_card(spec, (), FIGURES)


@pytest.mark.parametrize(
    ("data_name", "snapshot_sha256", "shown"),
    [
        ("published", None, "Published rows."),
        ("made", None, "made data, drawn from a seed"),
        ("fleet", "ab" * 32, "snapshot `abababababab`"),
    ],
)
def test_a_card_tells_the_rows_that_were_trained_on_and_no_others(
    data_name: str, snapshot_sha256: str | None, shown: str
) -> None:
    data = _card(data_name, snapshot_sha256).partition("## Data")[2].partition("## Training")[0]
    assert shown in data
    assert ("Published rows." in data) == (data_name == "published")
    assert "90 images of 9 tracks" in data


def test_what_was_seen_of_published_test_rows_is_not_said_of_a_fleets() -> None:
    assert "Test rows were looked at." in _card("published", None)
    assert "Test rows were looked at." not in _card("fleet", "ab" * 32)
