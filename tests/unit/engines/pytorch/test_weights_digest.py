"""The digest of weights is computed once, and the checksum that decides whether it is still right sees every change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pytest_pot.core.files import Kept
from pytest_pot.core.hashing import digest
from pytest_pot.engines.pytorch import weights_digest as module
from pytest_pot.engines.pytorch.weights_digest import weights_digest


class Model(nn.Module):
    """A matrix that the checksum covers with a remainder, and a buffer that is hashed as it is."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.table: Tensor
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(1021, 301, generator=generator).to(dtype))
        self.register_buffer("table", torch.arange(7.0))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tensors each SHA-256 over the weights read; the checksum is used however fast it is here."""
    calls: list[int] = []
    original = module._hashed

    def counted(tensors: list[Tensor]) -> list[str]:
        calls.append(len(tensors))
        return original(tensors)

    monkeypatch.setattr(module, "_hashed", counted)
    monkeypatch.setattr(module, "_DIGESTS", Kept[str](4))
    monkeypatch.setattr(module, "_has_checksum", lambda device: device.type == "cpu")
    return calls


def expected(model: Model) -> str:
    def hashed(tensor: Tensor) -> str:
        return hashlib.sha256(tensor.detach().view(torch.uint8).numpy().tobytes()).hexdigest()

    tensors = {"table": model.table, "weight": model.weight}
    return digest(f"{name} {t.dtype} {tuple(t.shape)} {hashed(t)}".encode() for name, t in tensors.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_digest_is_sha256_and_is_computed_once_for_the_same_bytes(hashed: list[int], dtype: torch.dtype) -> None:
    model = Model(dtype)
    assert weights_digest(model) == expected(model) == weights_digest(model) == weights_digest(Model(dtype))
    assert hashed == [2]


def swap_rows(model: Model) -> None:
    model.weight.data[[3, 700]] = model.weight.data[[700, 3]]


def swap_in_a_row(model: Model) -> None:
    model.weight.data[5, [1, 2]] = model.weight.data[5, [2, 1]]


def flip_two_signs(model: Model) -> None:
    model.weight.data[5, [1, 3]] *= -1


def one_bit(model: Model) -> None:
    model.weight.detach().numpy().view(np.uint32)[1020, 300] ^= 1


def middle_bit(model: Model) -> None:
    model.weight.detach().numpy().view(np.uint32)[510, 7] ^= 1 << 31


def zero_becomes_negative(model: Model) -> None:
    model.table.data[0] = -0.0


def another_shape(model: Model) -> None:
    model.weight.data = model.weight.data.reshape(301, 1021)


def another_dtype(model: Model) -> None:
    model.table.data = model.table.data.view(torch.int32)


def another_name(model: Model) -> None:
    model.register_buffer("values", model.table)
    del model.table


@pytest.mark.parametrize(
    "change",
    [
        swap_rows,
        swap_in_a_row,
        flip_two_signs,
        one_bit,
        middle_bit,
        zero_becomes_negative,
        another_shape,
        another_dtype,
        another_name,
    ],
)
def test_every_change_is_seen(hashed: list[int], change: Callable[[Model], None]) -> None:
    model = Model()
    before = weights_digest(model)
    change(model)
    assert weights_digest(model) != before
    assert len(hashed) == 2


def test_a_change_that_is_undone_needs_no_digest(hashed: list[int]) -> None:
    model = Model()
    before = weights_digest(model)
    model.weight.data[0, 0] += 1
    weights_digest(model)
    model.weight.data[0, 0] = Model().weight.data[0, 0]
    assert weights_digest(model) == before
    assert len(hashed) == 2


def test_a_device_whose_products_are_not_exact_or_not_fast_has_no_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    has_checksum, products = module._has_checksum.__wrapped__, module._products
    device = torch.device("cpu")
    monkeypatch.setattr(module, "_seconds", lambda work: 1.0)
    assert not has_checksum(device)
    fast_first = iter([0.1, 1.0, 0.1, 1.0])
    monkeypatch.setattr(module, "_seconds", lambda work: next(fast_first))
    monkeypatch.setattr(module, "_products", lambda rows, columns: (rows.long() @ columns.long()).int())
    assert has_checksum(device)
    monkeypatch.setattr(module, "_products", lambda rows, columns: (rows.long() @ columns.long()).clamp(max=1 << 15).int())
    assert not has_checksum(device)
    monkeypatch.setattr(module, "_products", products)
    monkeypatch.delattr(torch, "_int_mm")
    assert not has_checksum(device)


def test_without_a_checksum_the_digest_is_computed_each_time(hashed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_has_checksum", lambda device: False)
    model = Model()
    assert weights_digest(model) == weights_digest(model) == expected(model)
    assert hashed == [2, 2]


def test_the_sums_are_exact_where_the_checksum_is_used() -> None:
    if not module._has_checksum(torch.device("cpu")):
        pytest.skip("this processor or this version of torch has no fast products of 8-bit integers")
    rows = torch.randint(-128, 128, (64, module._WIDTH), dtype=torch.int8)
    columns = module._random_columns(torch.device("cpu"))
    assert torch.equal(module._products(rows, columns).long(), rows.long() @ columns.long())


def test_any_name_has_a_digest() -> None:
    """A file may give a name that is no text in UTF-8."""
    models = [nn.Module(), nn.Module()]
    for model, name in zip(models, ("a\udc80", "a\udc81"), strict=True):
        model.register_buffer(name, torch.arange(3.0))
    assert len({weights_digest(model) for model in models} - {None}) == 2


def test_weights_without_bytes_have_no_digest() -> None:
    with torch.device("meta"):
        assert weights_digest(nn.Linear(4, 4)) is None


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("rows", [8, 1024])
def test_a_quantised_tensor_is_read_whole(rows: int) -> None:
    """A view of its storage is still quantised, and reading it as bytes would crash the process."""
    digests = []
    for first in (0.1, 0.1, 0.2):
        model = nn.Module()
        values = torch.zeros(rows, 1024)
        values[0, 0] = first
        model.register_buffer("q", torch.quantize_per_tensor(values, 0.1, 0, torch.qint8))
        digests.append(weights_digest(model))
    assert digests[0] == digests[1] != digests[2]
    assert digests[0] is not None


def test_sums_that_saturate_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on processors that add two products in 16 bits: two neighbours of 127 are enough."""

    def saturating(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        sums = torch.zeros(len(rows), columns.shape[1], dtype=torch.int32)
        for i in range(0, len(columns), 2):
            sums += (rows[:, i : i + 2].int() @ columns[i : i + 2].int()).clamp(-32768, 32767)
        return sums

    monkeypatch.setattr(module, "_products", saturating)
    monkeypatch.setattr(module, "_TRIAL_ROWS", 64)
    assert not module._has_checksum.__wrapped__(torch.device("cpu"))
