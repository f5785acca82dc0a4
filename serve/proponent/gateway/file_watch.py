"""Files that are read again while the gateway runs: tokens, keys and certificates.

They are looked at, and compared by their content: a secret that an orchestrator mounts changes by a link that points
elsewhere, an editor's by a new file, and neither by what can be listened to everywhere.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from proponent.errors import ProponentError

POLL_S = 1.0
_log = structlog.get_logger("proponent.gateway")


@dataclass
class WatchedFiles:
    """Files that belong together.

    Attributes:
        what: Their name in the log.
        paths: The files.
        load: Reads them again; must leave what was read before in use where it raises ProponentError.
    """

    what: str
    paths: Sequence[Path]
    load: Callable[[], None]
    _seen: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._seen = self._contents()

    def look(self) -> None:
        """Reads them again if one has changed; what cannot be used is logged, once for each change."""
        contents = self._contents()
        if contents == self._seen:
            return
        self._seen = contents
        try:
            self.load()
        except (ProponentError, OSError) as error:  # OSError: it was there a moment ago
            _log.error("files changed and cannot be used; the ones before stay", what=self.what, detail=str(error))
        else:
            _log.info("files changed and are used from now on", what=self.what)

    def _contents(self) -> list[bytes]:
        return [_digest(path) for path in self.paths]


async def watch(groups: Sequence[WatchedFiles]) -> None:
    """Looks at all groups for ever."""
    while True:
        await asyncio.sleep(POLL_S)
        for group in groups:
            await asyncio.to_thread(group.look)


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b""
