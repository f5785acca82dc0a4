"""Where the unit rows lie, and products with all of them: on one device, or streamed to it from the mapped file.

Rows that fit stay on the device that multiplies them. Of others the first ones stay there, as many as there is room
for, and the rest passes through two buffers at every scan, each filled while the other one is multiplied.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from proponent.bounds.cancellation import checkpoint
from proponent.errors import CorruptBundleError, UnavailableError
from proponent.single_precision import single_precision

PIECE = 512
BLOCK = 2048
HALF_ERROR = 2.0e-3
"""Bound on |product - exact| of unit vectors where the query is rounded to fp16 or the product is taken in it."""
SINGLE_ERROR = 5.0e-5
"""The same of a float32 matrix product of some thousand numbers; a test checks both against float64."""
BUFFER_BYTES = 1 << 26
"""Of each of the two buffers on either side through which rows are streamed."""
AT_ONCE = 1 << 20
"""Rows whose products in two parts exist at the same time on a GPU."""
SCORED_AT_ONCE, SCORED_AT_ONCE_ON_DEVICE = 512, 1 << 16
"""Rows that are widened to float64 together: some that stay in a processor's caches, or few launches."""
SCANNED_QUERIES = 64
"""Queries for whose products with all rows memory is set aside on a GPU."""
ROW_OVERHEAD = 4 * SCANNED_QUERIES + 3 * (4 + 8)
"""Bytes on the device for each row beside the row: products, and three scales in float32 and in float64."""
RESERVED = 1 / 4
"""Share of a GPU's memory that is left to the model and its activations."""
WEIGHT_BITS, DIGIT_BITS = 35, 12
"""Of a weight beside its sign, and of the digits that it is split into: the products of 2048 rows stay below 2^53."""
DIGIT = (1 << DIGIT_BITS) - 1
HALF_UNITS = 2.0**24
"""Every number of fp16 is a multiple of 2^-24."""
LOW = 2.0**11
"""What the low half of a query is multiplied by, so that it is no subnormal number of fp16."""


class RowStore(ABC):
    """Unit rows [N, padded K]."""

    device: torch.device
    """Where products are computed."""

    is_resident = False
    """Whether all rows lie on that device."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def width(self) -> int:
        """The padded K."""

    @abstractmethod
    def products(self, queries: Tensor, place: slice = slice(None), *, precise: bool = False) -> Tensor:
        """Products of queries [B, padded K], of length 1 at most, with neighbouring rows, [B, n] float32 there."""

    @abstractmethod
    def take(self, rows: Tensor) -> Tensor:
        """Some rows by their numbers [n], [n, padded K] on the device, in the precision that they have."""

    @abstractmethod
    def between(self, place: slice) -> Tensor:
        """Neighbouring rows, as ``take`` gives them."""

    def exact_products(self, queries: Tensor, owners: Tensor, rows: Tensor) -> Tensor:
        """Products of rows [n] with the queries [B, K] float64 of their owners [n], the same whatever is beside them.

        Returns:
            [n] float64.
        """
        at_once = SCORED_AT_ONCE if self.device.type == "cpu" else SCORED_AT_ONCE_ON_DEVICE
        parts = zip(torch.split(owners, at_once), torch.split(rows, at_once), strict=True)
        return torch.cat([self._exact_products(queries, *part) for part in parts])

    def _exact_products(self, queries: Tensor, owners: Tensor, rows: Tensor) -> Tensor:
        own = queries if len(queries) == 1 else queries.index_select(0, owners)
        # A sum row by row: a matrix product rounds a row differently with other rows beside it. By way of single
        # precision, to which processors convert half precision at once.
        return self.take(rows)[:, : queries.shape[1]].float().double().mul_(own).sum(dim=1)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """``sum_i w_i u_i``, [padded K] float64, for weights [N]: to 35 bits of the largest weight.

        Summed in whole numbers, so that it is the same, bit by bit, whoever adds which rows in what order.
        """
        scale = float(weights.abs().max()) if len(weights) else 0.0
        if not scale:
            return torch.zeros(self.width, dtype=torch.float64)
        whole = (weights.double() / scale * 2.0**WEIGHT_BITS).round().long()
        digits = torch.stack([whole >> 2 * DIGIT_BITS, whole >> DIGIT_BITS & DIGIT, whole & DIGIT])
        high, middle, low = (sums.double() for sums in self.whole_sums(digits))
        total: Tensor = (high * 2.0 ** (2 * DIGIT_BITS) + (middle * 2.0**DIGIT_BITS + low)) / 2.0**WEIGHT_BITS
        return total.mul_(scale / HALF_UNITS)

    def whole_sums(self, digits: Tensor) -> Tensor:
        """``sum_i d_i u_i`` in units of fp16's smallest number, [D, padded K] int64, exactly.

        Args:
            digits: Whole numbers of at most ``DIGIT_BITS`` bits, [D, N] int64; blocks of zeros are not read.
        """
        total = torch.zeros(len(digits), self.width, dtype=torch.int64)
        for start in range(0, len(self), BLOCK):
            checkpoint()
            some = digits[:, (place := slice(start, start + BLOCK))]
            if bool(some.any()):
                # By way of single precision, as in `exact_products`.
                rows = self.between(place).float().double()
                # Whole numbers below 2^53, so that double precision rounds nothing.
                sums = (some.to(rows) @ rows) * HALF_UNITS
                if not bool(sums.isfinite().all()):
                    raise CorruptBundleError("rows hold numbers that are not finite: they were overwritten")
                total += sums.long().cpu()
        return total

    def stored(self, keep: Tensor) -> Iterator[Tensor]:
        """The rows that ``keep`` [N] bool names as the container holds them and in its order, in blocks."""
        for start in range(0, len(self), BLOCK):
            checkpoint()
            place = slice(start, start + BLOCK)
            yield self.between(place).cpu()[keep[place]]

    def is_coarse(self, count: int) -> bool:
        """Whether products of so many queries are taken in half precision."""
        return count == 1 and self.device.type != "cuda"


class ResidentRows(RowStore):
    """Rows on the device that multiplies them; on a processor they are the pages of the mapped file."""

    is_resident = True

    def __init__(self, codes: Tensor) -> None:
        self.codes = codes
        self.device = codes.device

    @override
    def __len__(self) -> int:
        return int(self.codes.shape[0])

    @property
    @override
    def width(self) -> int:
        return int(self.codes.shape[1])

    @override
    def products(self, queries: Tensor, place: slice = slice(None), *, precise: bool = False) -> Tensor:
        return multiply(self.codes[place], queries, coarse=not precise and self.is_coarse(len(queries)))

    @override
    def take(self, rows: Tensor) -> Tensor:
        return self.codes.index_select(0, rows.to(self.device))

    @override
    def between(self, place: slice) -> Tensor:
        return self.codes[place]


class StreamedRows(RowStore):
    """Rows in the host's memory, of which the first ones lie on the device as well.

    Args:
        codes: All rows, [N, padded K] float16 on the host.
        held: The first of them, on the device; may be none.
        buffer_bytes: Size of a buffer; at least one row fits.
    """

    def __init__(self, codes: Tensor, held: ResidentRows, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._codes = codes
        self._held = held
        self.device = held.device
        self._lanes = _Lanes(max(buffer_bytes // (2 * held.width), 1), held.width, held.device)

    @override
    def __len__(self) -> int:
        return len(self._codes)

    @property
    @override
    def width(self) -> int:
        return self._held.width

    @override
    def products(self, queries: Tensor, place: slice = slice(None), *, precise: bool = False) -> Tensor:
        coarse, (start, stop, _) = not precise and self.is_coarse(len(queries)), place.indices(len(self))
        streamed = min(max(start, len(self._held)), stop)
        out = queries.new_empty(len(queries), stop - start, dtype=torch.float32)
        if streamed > start:
            out[:, : streamed - start] = self._held.products(queries, slice(start, streamed), precise=precise)
        for where, codes in self._lanes.stream(self._codes[:stop], streamed):
            checkpoint()
            out[:, where.start - start : where.stop - start] = multiply(codes, queries, coarse=coarse)
        return out

    @override
    def take(self, rows: Tensor) -> Tensor:
        return self._codes[rows.cpu()].to(self.device)

    @override
    def between(self, place: slice) -> Tensor:
        return self._codes[place].to(self.device)


class _Lanes:
    """Two lanes from the host to a device: while one lane's rows are multiplied, the other one's come in."""

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self._rows = rows
        is_cuda = device.type == "cuda"
        size = (2, rows, width)
        self._host = torch.empty(size, dtype=torch.float16, pin_memory=is_cuda)
        self._there = torch.empty(size, dtype=torch.float16, device=device)
        self._gates = [_Gate(device), _Gate(device)] if is_cuda else None

    def stream(self, codes: Tensor, first: int) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of the rows from ``first`` on: where each lies, and it on the device, until the next but one."""
        for number, start in enumerate(range(first, len(codes), self._rows)):
            place, lane = slice(start, min(start + self._rows, len(codes))), number % 2
            block = codes[place]
            host, there = self._host[lane, : len(block)], self._there[lane, : len(block)]
            if self._gates is None:
                yield place, there.copy_(host.copy_(block))
                continue
            gate = self._gates[lane]
            gate.wait_for_host_buffer()
            gate.copy(there, host.copy_(block))
            yield place, there
            gate.multiplied()


class _Gate:
    """Keeps a lane's copies and products in order, on the device: the host waits for its own buffer alone."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copying: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copied: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._multiplied: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def wait_for_host_buffer(self) -> None:
        """Returns once the host's buffer has been read; at once where it never was filled."""
        self._copied.synchronize()

    def copy(self, there: Tensor, host: Tensor) -> None:
        """Fills the device's buffer behind the last product that needed it; later products wait for it."""
        with torch.cuda.stream(self._copying):
            self._multiplied.wait(self._copying)
            there.copy_(host, non_blocking=True)
            self._copied.record(self._copying)
        self._copied.wait(torch.cuda.current_stream(self._device))

    def multiplied(self) -> None:
        """Says that what was asked of the device so far is the last that needs the buffer."""
        self._multiplied.record(torch.cuda.current_stream(self._device))


def place_rows(codes: Tensor, device: torch.device, budget: int | None = None) -> RowStore:
    """Rows of the mapped file where they are multiplied: on a device as many as fit, all of them if possible.

    Args:
        codes: [N, padded K] float16 on the host.
        device: Where products are computed.
        budget: Bytes of the device's memory for all that an index needs there; by default, on a CUDA device, what is
            free but for a quarter of the whole, and elsewhere no bound.

    Raises:
        UnavailableError: Not even the products with streamed rows fit.
    """
    limit = _free(device) if budget is None else budget
    if limit is None:
        return ResidentRows(codes.to(device))
    count, row = len(codes), 2 * codes.shape[1]
    left = limit - count * ROW_OVERHEAD
    if left >= count * row:
        return ResidentRows(codes.to(device))
    buffers = 2 * min(BUFFER_BYTES, max(left // 4, row))
    if left < buffers:
        raise UnavailableError(
            f"{count:,} rows need {count * ROW_OVERHEAD + 2 * row:,} bytes of {device} for their scales and products "
            f"even where the rows themselves are streamed, expected at most {limit:,} (what is free, less a quarter "
            "of the device for the model): serve them from a device with more free memory, or with device: cpu",
            reason="DEVICE_MEMORY",
        )
    held = (left - buffers) // row
    return StreamedRows(codes, ResidentRows(codes[:held].to(device)), buffers // 2)


def _free(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return int(free - RESERVED * total)


def multiply(codes: Tensor, queries: Tensor, *, coarse: bool) -> Tensor:
    """[B, N] float32 products of queries [B, k] with rows [N, k] in fp16, by the fastest way of the device."""
    on_cpu = codes.device.type == "cpu"
    if on_cpu and coarse:
        return torch.mv(codes, queries[0].half()).float()[None]
    product = _blocked_product if on_cpu else _split_product
    with single_precision():
        return product(codes, queries.float())


def split(queries: Tensor) -> Tensor:
    """Queries [B, k] as two numbers in fp16 each, q = high + low / LOW, the high ones first: [2 B, k]."""
    high = queries.half()
    return torch.cat([high, ((queries - high.float()) * LOW).half()])


def joined(products: Tensor) -> Tensor:
    """Products of queries [B, n] from those of what ``split`` gives, [2 B, n]."""
    high, low = products.chunk(2)
    return torch.add(high, low, alpha=1 / LOW)


def _split_product(codes: Tensor, queries: Tensor) -> Tensor:
    """[B, N] products, in fp16 with sums in float32: exact to single precision, and no row is widened.

    The second half of a query costs nothing where reading the rows is what takes the time.
    """
    halves = split(queries)
    out = torch.empty(len(queries), len(codes), device=codes.device)
    for start in range(0, len(codes), AT_ONCE):
        products = torch.mm(halves, codes[start : start + AT_ONCE].mT, out_dtype=torch.float32)
        out[:, start : start + AT_ONCE] = joined(products)
    return out


def _blocked_product(codes: Tensor, queries: Tensor) -> Tensor:
    """[B, N] products in float32; rows are widened block by block so that they stay in cache.

    As a batch of small products: each thread multiplies the rows that it has widened itself. Products of whole
    blocks read half of them from the other cores' caches, which took up to three times as long.
    """
    count, pieces = len(queries), 2 * torch.get_num_threads()
    out = torch.empty(count, len(codes), device=codes.device)
    wide = torch.empty(pieces, PIECE, codes.shape[1], device=codes.device)
    found = torch.empty(pieces, count, PIECE, device=codes.device)
    whole = len(codes) // (pieces * PIECE) * (pieces * PIECE)
    for start in range(0, whole, pieces * PIECE):
        checkpoint()
        place = slice(start, start + pieces * PIECE)
        wide.view(-1, codes.shape[1]).copy_(codes[place])
        torch.bmm(queries.expand(pieces, -1, -1), wide.mT, out=found)
        out[:, place].view(count, pieces, PIECE).copy_(found.transpose(0, 1))
    torch.mm(queries, codes[whole:].float().T, out=out[:, whole:])
    return out
