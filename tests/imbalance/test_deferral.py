import pytest

from dlrecipes.imbalance import first_balanced_epoch


def test_the_protocol_of_the_paper_and_short_runs() -> None:
    assert first_balanced_epoch(0.8, 200) == 160
    assert [first_balanced_epoch(0.8, epochs) for epochs in (1, 2, 3, 5, 10, 30)] == [0, 1, 2, 4, 8, 24]
    assert first_balanced_epoch(0.999, 100) == 99  # the last epoch is always balanced


@pytest.mark.parametrize(
    ("share", "epochs", "named"), [(1.0, 5, "share=1.0"), (-0.1, 5, "share=-0.1"), (0.5, 0, "epochs=0")]
)
def test_outside_their_ranges(share: float, epochs: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        first_balanced_epoch(share, epochs)
