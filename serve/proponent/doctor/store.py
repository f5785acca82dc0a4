"""The store: can it be read and written, and is each bundle that would be served whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from proponent.doctor.finding import Finding, failure, ok, warning
from proponent.errors import NotFoundError, ProponentError
from proponent.gateway.settings import Settings
from proponent.index.bundle import read_manifest
from proponent.index.lifecycle import size_of
from proponent.index.store import Store
from proponent.inspection.verify import verify


def served_models(settings: Settings) -> list[str]:
    """The models that a gateway would serve; none where the store cannot be read."""
    try:
        return list(settings.models) or Store(settings.store).models()
    except OSError:
        return []


def check_store(settings: Settings) -> Iterator[Finding]:
    """Whether the store is there, and can be read and written."""
    root, store = settings.store, Store(settings.store)
    if not root.is_dir():
        yield failure("store", f"{root} is not a directory", "make a bundle: proponent rebuild SPEC --store STORE")
        return
    try:
        known = store.models()
    except OSError as error:
        yield failure("store", f"{root} cannot be read: {error.strerror}", f"give this user read access to {root}")
        return
    if not known:
        yield failure("store", f"no model in {root}", "make a bundle: proponent rebuild SPEC --store STORE")
        return
    yield ok("store", f"{root} holds {', '.join(known)}")
    yield _written(root)


def _written(root: Path) -> Finding:
    try:
        with tempfile.NamedTemporaryFile(dir=root, prefix=".doctor-"):
            pass
    except OSError as error:
        found = f"{root} cannot be written to ({error.strerror}): this gateway takes no publish, rollback or forget"
        remedy = (
            "nothing, where another process publishes and this one is restarted; else give this user write access"
        )
        return warning("store writable", found, remedy)
    free = shutil.disk_usage(root).free
    largest = max((size_of(path) for path in root.glob("*/bundles/*") if path.is_dir()), default=0)
    if free < 2 * largest:
        found = f"{free:,} bytes are free below {root}, its largest bundle has {largest:,}"
        return warning(
            "store writable", found, "free some space (proponent gc): a rebuild needs about twice a bundle"
        )
    return ok("store writable", f"{free:,} bytes are free below {root}")


def check_bundles(settings: Settings) -> Iterator[Finding]:
    """Whether the bundle of each model is whole."""
    for name in served_models(settings):
        yield _bundle(Store(settings.store), name)


def _bundle(store: Store, name: str) -> Finding:
    check = f"bundle of {name}"
    try:
        bundle = store.current(name)
        manifest, found = read_manifest(bundle), verify(bundle, sample=0)
    except NotFoundError as error:
        return failure(check, error.message, f"proponent rebuild SPEC --store {store.root}, or serve another model")
    except ProponentError as error:
        return failure(check, error.message, f"publish a bundle that is whole: proponent rollback --model {name}")
    except OSError as error:
        return failure(check, f"cannot be read: {error}", f"give this user read access to {store.directory(name)}")
    if not found.whole:
        problems = "; ".join(f"{problem.file}: {problem.message}" for problem in found.problems)
        remedy = f"proponent rollback --model {name}, or copy the files again, then proponent verify --model {name}"
        return failure(check, problems, remedy)
    if _is_of_the_future(manifest.created):
        remedy = "set this machine's clock, or that of the machine that rebuilt"
        return warning(check, f"it was built at {manifest.created}, which is still to come", remedy)
    return ok(check, f"{bundle.name[:12]} is whole: {manifest.train_size:,} examples, {size_of(bundle):,} bytes")


def _is_of_the_future(created: str) -> bool:
    try:
        return datetime.fromisoformat(created) > datetime.now(UTC)
    except (ValueError, TypeError):
        return False


def check_user(settings: Settings) -> Iterator[Finding]:
    """Whether whoever runs the service has more rights than it needs."""
    if os.geteuid() == 0:
        yield warning("user", "this is root", "run the service as a user of its own, who owns the store and no more")
    else:
        yield ok("user", f"not root (uid {os.geteuid()})")
