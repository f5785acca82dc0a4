"""What the results in a directory were made by: results of two kinds do not mix."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import proponent
from proponent.datasets.location import ENVIRONMENT_VARIABLE
from proponent.errors import BusyError, InvalidInputError, NotFoundError, ProponentError, StorageError
from proponent.index.lock import LOCK, exclusive
from proponent.spec import SPEC_FILE, load_spec
from proponent.study.kept import loaded, tell_damaged, write_whole

RUN = "run.json"
RESULT = "result.json"
MODELS = "models"


def located(data_root: Path | None) -> Path | None:
    """The folder of the data sets, absolute; that of PROPONENT_DATA where none is given.

    Raises:
        NotFoundError: It is not a directory.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    root = Path(named) if data_root is None and named else data_root
    if root is None:
        return None
    if not root.is_dir():
        told = "data root" if data_root else f"{ENVIRONMENT_VARIABLE}:"
        raise NotFoundError(
            f"{told} {root} is not a directory, expected the folder of the data sets",
            field="data_root",
            reason="DATA_MISSING",
        )
    return root.absolute()


@contextmanager
def only_run(out: Path) -> Iterator[None]:
    """The right to write to a directory, which is made if missing.

    Raises:
        InvalidInputError: It is a file.
        StorageError: It cannot be made.
        BusyError: Another run has the right.
    """
    try:
        if out.exists() and not out.is_dir():
            raise InvalidInputError(f"{out} is a file, expected the directory of the results", field="out")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"directory {out} cannot be made: {error.strerror}", field="out") from error
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(out / LOCK))
        except BusyError:
            message = f"another run writes to {out}, which is locked: wait for its end, or choose another --out"
            raise BusyError(message, field="out") from None
        yield


def check_run(out: Path, *, quick: bool, data_root: Path | None) -> None:
    """Refuses to add results to those of another mode, version or data root, and notes what these are.

    A directory that holds nothing yet is of no kind, whatever was asked for there before.

    Raises:
        InvalidInputError: ``out`` holds results of another kind.
    """
    now = {"mode": "quick" if quick else "study", "version": proponent.__version__}
    if _holds_any(out):
        known = _noted(out)
        for key, value in now.items():
            _check(out, key, known.get(key, value), value)
        for root in _data_roots(out / MODELS) if data_root else ():
            _check(out, "data root", root, str(data_root))
    write_whole(out / RUN, now)


def _check(out: Path, key: str, known: str, value: str) -> None:
    if known != value:
        kept = f"{out} holds results of {key} {known}"
        raise InvalidInputError(f"{kept}, and these would be of {key} {value}: choose another --out", field="out")


def _holds_any(out: Path) -> bool:
    """Whether something was finished there: a result, a step or a model."""
    patterns = (f"*/{RESULT}", "*/steps-*/*.json", f"{MODELS}/*/*.json")
    return any(True for pattern in patterns for _ in out.glob(pattern))


def _noted(out: Path) -> Mapping[str, Any]:
    """What the directory says of its results; nothing where that is damaged: they are taken by their code then."""
    path = out / RUN
    if not path.exists():
        raise InvalidInputError(
            f"{out} holds results, but no {RUN} says of which version: choose another --out", field="out"
        )
    noted = loaded(path)
    if noted is None:
        tell_damaged(path)
    return noted or {}


def _data_roots(models: Path) -> set[str]:
    """Folders of the data of which models were made, by their specs."""
    found = set()
    for path in models.glob(f"*/{SPEC_FILE}"):
        try:
            root = load_spec(path.parent).dataset.kwargs.get("root")
        except ProponentError:
            continue  # damaged: the model is trained again
        if root:
            found.add(str(root))
    return found
