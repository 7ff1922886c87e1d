import pytest
import torch

from dlrecipes.ops import add

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (1025,), (4, 5, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_equals_plus(device: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, y = (torch.randint(-99, 99, shape, device=device).to(dtype) for _ in range(2))
    torch.testing.assert_close(add(x, y), x + y, rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_memory_in_another_order(device: str) -> None:
    x, y = torch.randn(6, 4, device=device).t(), torch.randn(4, 12, device=device)[:, ::2]
    torch.testing.assert_close(add(x, y), x + y, rtol=0, atol=0)


# opcheck itself looks at .grad of tensors that are no leaves
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("device", DEVICES)
def test_gradients(device: str) -> None:
    x, y = (torch.randn(3, 2, dtype=torch.float64, device=device, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(add, (x, y))
    torch.library.opcheck(torch.ops.dlrecipes.add.default, (x, y))


def test_compiled() -> None:
    x, y = torch.randn(5), torch.randn(5)
    torch.testing.assert_close(torch.compile(add, backend="aot_eager", fullgraph=True)(x, y), x + y)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (torch.zeros(2), r"one shape, and have torch.Size\(\[3\]\) and torch.Size\(\[2\]\)"),
        (torch.zeros(3, dtype=torch.float64), "one dtype"),
        (torch.zeros(3, device="meta"), "one device"),
    ],
)
def test_what_tutorials_leave_out(other: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        add(torch.zeros(3), other)
