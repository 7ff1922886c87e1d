import pytest
import torch
from sklearn.decomposition import PCA as Reference
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dlrecipes.errors import UserError
from dlrecipes.shift import PCA, FeatureTap, ShiftFeatures, collect, penultimate


class WithFeatures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(48, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def features(self, images: Tensor) -> Tensor:
        return self.norm(self.body(images.flatten(1)))

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))


def pictures(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=generator)


def test_both_ways_to_the_features_are_the_same() -> None:
    model = WithFeatures().eval()
    images = pictures(6).float()
    features, outputs = penultimate(model, images)
    with FeatureTap(model) as tap:
        expected = model(images)
        torch.testing.assert_close(tap.take(), features)
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(model.head(features), expected)


def test_a_container_called_features_is_no_method() -> None:
    model = nn.Module()
    model.features, model.classify = nn.Flatten(), nn.Linear(48, 2)
    model.forward = lambda images: model.classify(model.features(images))
    features, _ = penultimate(model, pictures(2).float())
    torch.testing.assert_close(features, pictures(2).float().flatten(1))


def test_a_tap_averages_over_queries_and_leaves_the_network_as_it_was() -> None:
    model = nn.Sequential(nn.Identity(), nn.Linear(4, 2))
    with FeatureTap(model) as tap:
        model(torch.arange(24.0).reshape(2, 3, 4))
        torch.testing.assert_close(tap.take(), torch.arange(24.0).reshape(2, 3, 4).mean(1))
        with pytest.raises(UserError, match="without calling its last linear layer"):
            tap.take()
    assert not model[1]._forward_pre_hooks
    with pytest.raises(UserError, match="Identity has no linear layer"):
        FeatureTap(nn.Identity())


def test_collect_goes_by_batches_and_keeps_labels_positions_and_modes() -> None:
    model = WithFeatures().train()
    model.body.eval()
    images = pictures(7)
    whole = collect([images], model)
    batches = [
        {"images": images[:4], "targets": torch.arange(4), "index": torch.tensor([9, 8, 7, 6])},
        {"images": images[4:], "targets": torch.arange(3), "index": torch.tensor([5, 4, 3])},
    ]
    found = collect(batches, model)
    assert len(found) == 7
    assert found.labels.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert found.index.tolist() == [9, 8, 7, 6, 5, 4, 3]
    for name in ("embedding", "probabilities", "properties"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name))
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(7))
    assert (model.training, model.body.training, model.norm.training) == (True, False, True)
    assert int(model.norm.num_batches_tracked) == 0
    assert found.select(torch.tensor([2])).index.tolist() == [7]
    assert found.to("cpu").properties.equal(found.properties)


def test_collect_takes_the_batches_of_torchs_data_sets() -> None:
    images, labels = torch.randint(0, 255, (6, 3, 4, 4), dtype=torch.uint8), torch.arange(6)
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    found = collect(loader)
    assert torch.equal(found.labels, labels)
    assert torch.equal(found.properties, collect([images]).properties)


def test_collect_without_a_model_scales_as_asked_and_refuses_nothing_at_all() -> None:
    found = collect([pictures(3)])
    assert found.embedding is None
    assert found.properties.shape == (3, 9)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    scaled = collect([pictures(3)], model, lambda images: images.float() - 7)
    torch.testing.assert_close(scaled.embedding, pictures(3).float().flatten(1) - 7)
    torch.testing.assert_close(collect([pictures(3)], model).embedding, pictures(3).flatten(1) / 255)
    with pytest.raises(UserError, match="no images to compare"):
        collect([])


@pytest.mark.parametrize("shape", [(50, 6), (5, 20), (20, 20)])
def test_pca_is_scikit_learns_but_for_signs(shape: tuple[int, int]) -> None:
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, reference = PCA.fit(rows, 3), Reference(3).fit(rows.numpy())
    torch.testing.assert_close(ours(rows).abs(), torch.from_numpy(reference.transform(rows.numpy())).abs())
    assert PCA.fit(rows, 99)(rows).shape == (shape[0], min(shape[0] - 1, shape[1]))
    with pytest.raises(ValueError, match="components=0"):
        PCA.fit(rows, 0)


def test_rows_of_different_number_are_refused() -> None:
    with pytest.raises(ValueError, match="'embedding': 2, 'labels': 3"):
        ShiftFeatures(embedding=torch.zeros(2, 1), labels=torch.zeros(3, dtype=torch.int64))
