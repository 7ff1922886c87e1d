import pytest
import torch

from dlrecipes.runs.pictures.worst import WorstImages


def test_the_worst_of_all_batches_in_order_with_their_files():
    worst = WorstImages(3)
    for start, scores in ((0, [0.1, 0.9]), (2, [0.5]), (3, [0.0, 0.7, float("nan")])):
        count = len(scores)
        images = torch.full((count, 3, 4, 4), 1.0) * torch.arange(start, start + count)[:, None, None, None]
        values = torch.arange(start, start + count).float()[:, None]
        worst.update(torch.tensor(scores), images, values, [f"{i}.jpg" for i in range(start, start + count)])
    found = worst.gather()
    assert [w.path for w in found] == ["1.jpg", "4.jpg", "2.jpg"]
    assert [w.score for w in found] == pytest.approx([0.9, 0.7, 0.5])
    assert [w.values.tolist() for w in found] == [[1], [4], [2]]
    assert [int(w.image.unique()) for w in found] == [1, 4, 2]
    assert found[0].image.dtype == torch.uint8


def test_what_is_right_is_no_candidate_and_large_images_become_thumbnails():
    worst = WorstImages(5)
    worst.update(torch.tensor([0.0, 2.0]), torch.full((2, 3, 300, 600), 7, dtype=torch.uint8), torch.zeros(2, 1), "ab")
    [found] = worst.gather()
    assert found.path == "b"
    assert found.image.shape == (3, 128, 256)
    assert int(found.image.unique()) == 7
    assert WorstImages(2).gather() == []
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        WorstImages(0)
