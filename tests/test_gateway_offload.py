"""Work that would hold the event loop is done in another process, which may die without harm to the next request."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from proponent.errors import InvalidInputError, UnavailableError
from proponent.gateway.http.instances import json_object
from proponent.gateway.http.offload import INLINE_BYTES, Offload

LARGE = INLINE_BYTES + 1


def test_small_work_is_done_here_and_large_work_elsewhere() -> None:
    async def inside() -> None:
        offload = Offload()
        assert await offload.run(INLINE_BYTES, os.getpid) == os.getpid()
        pids = await asyncio.gather(*(offload.run(LARGE, os.getpid) for _ in range(3)))
        assert len(set(pids)) == 1 and pids[0] != os.getpid()
        with pytest.raises(InvalidInputError) as caught:
            await offload.run(LARGE, json_object, b"[" * LARGE)
        assert (caught.value.field, caught.value.reason) == ("body", "JSON_INVALID")
        offload.close()

    asyncio.run(inside())


def test_a_process_that_died_starts_again() -> None:
    async def inside() -> None:
        offload = Offload()
        first = await offload.run(LARGE, os.getpid)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(UnavailableError, match="starts again"):
            await offload.run(LARGE, os.getpid)
        assert await offload.run(LARGE, os.getpid) != first
        offload.close()

    asyncio.run(inside())
