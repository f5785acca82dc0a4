"""Whatever precision a process has chosen, and however, products here are in single precision, and it holds again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from proponent import single_precision as chosen
from proponent.index.row_code import CodedRows, RowCode
from proponent.index.row_store import ResidentRows, RowStore
from proponent.single_precision import single_precision

BACKENDS: Any = torch.backends
KEEPERS = (
    BACKENDS.cuda.matmul,
    BACKENDS.cudnn.conv,
    BACKENDS.cudnn.rnn,
    BACKENDS.mkldnn.matmul,
    BACKENDS.mkldnn.conv,
)


def chosen_for(key: str, value: str) -> Callable[[], None]:
    parts = key.split(".")

    def choose() -> None:
        found = BACKENDS
        for part in parts:
            found = getattr(found, part)
        found.fp32_precision = value

    return choose


CHOICES: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "products by the newer interface": chosen_for("cuda.matmul", "tf32"),
    "convolutions by the newer interface": chosen_for("cudnn.conv", "ieee"),
    "bf16 on a processor": chosen_for("mkldnn.matmul", "bf16"),
    "sums in fp16": lambda: setattr(BACKENDS.cuda.matmul, "allow_fp16_accumulation", True),
}


def asked(question: Callable[[], object]) -> object:
    """What PyTorch answers; nothing where both of its interfaces were used, which it refuses."""
    try:
        return question()
    except RuntimeError:
        return None


def state() -> list[object]:
    older = (
        torch.get_float32_matmul_precision,
        lambda: BACKENDS.cuda.matmul.allow_tf32,
        lambda: BACKENDS.cudnn.allow_tf32,
    )
    in_half = BACKENDS.cuda.matmul.allow_fp16_accumulation
    return [[keeper.fp32_precision for keeper in KEEPERS], in_half, *map(asked, older)]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = state()
    restore = chosen._take_single_precision()
    restore()
    yield
    restore()
    assert state() == before


@pytest.mark.parametrize("name", CHOICES)
def test_products_are_single_inside_and_as_chosen_behind(name: str) -> None:
    CHOICES[name]()
    before = state()
    with single_precision():
        # PyTorch answers by its older interface only where the newer one says the same, and so do its products.
        assert state() == [["ieee"] * len(KEEPERS), False, "highest", False, False]
    assert state() == before


def test_it_holds_until_the_last_thread_has_left() -> None:
    torch.set_float32_matmul_precision("high")
    here = single_precision()
    here.__enter__()
    found: list[str] = []

    def other() -> None:
        with single_precision():
            here.__exit__(None, None, None)
            found.append(torch.get_float32_matmul_precision())

    thread = Thread(target=other)
    thread.start()
    thread.join()
    assert [*found, torch.get_float32_matmul_precision()] == ["highest", "high"]


class Products(TorchFunctionMode):
    """The precision at each product of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.mm, torch.bmm, torch.matmul, Tensor.matmul, Tensor.__matmul__):
            self.seen.append(torch.get_float32_matmul_precision())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("coded", [False, True])
def test_rows_are_multiplied_in_single_precision_whatever_the_process_chose(coded: bool) -> None:
    torch.set_float32_matmul_precision("high")
    rows: RowStore = ResidentRows(torch.eye(16, dtype=torch.float16))
    if coded:
        rows = CodedRows(rows, RowCode(torch.randn(2, 16, 24), torch.arange(16) % 2))
    queries, places = torch.randn(3, rows.width), torch.arange(3)
    with Products() as products:
        rows.products(queries)
        rows.take(places)
        rows.exact_products(queries.double(), places, places)
    assert products.seen and {*products.seen} == {"highest"}
