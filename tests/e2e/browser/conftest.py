"""A real Chromium on a real gateway: one browser for each module, one blank context for each test."""

from __future__ import annotations

import base64
import io
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from playwright.sync_api import Browser, expect, sync_playwright
from running import RunningGateway
from watched_page import Open, WatchedPage

from proponent.audit.checks import AuditOptions, FewSubsetsWarning, full_audit
from proponent.audit.scoring import open_bundle
from proponent.datasets import digits as digits_data
from proponent.index.audit_file import audits_of, keep_audit
from proponent.index.store import Store
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.progress import StageProgress
from proponent.spec import load_spec

ALLOWED = ("--allow-examples", "--allow-thumbnails", "--allow-samples")
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_QUICK = {"queries": 8, "lds_subsets": 4, "leave_one_out": 2}
"""So few retrained models say little: pictures for people are of as many as an audit should have."""
_THOROUGH = {"queries": 60, "lds_subsets": 32, "leave_one_out": 10, "label_noise": 0.1}

# All of the gate shares the cores of a small machine.
expect.set_options(timeout=20_000)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the browser; without one these tests skip, saying how to get it."""
    named = os.environ.get("PROPONENT_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, _NAMES)), None)
    if not found:
        pytest.skip("no Chromium: scripts/setup --browser installs it, PROPONENT_CHROMIUM names another")
    return found


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """No longer than a module: while it is open no other test of this process can run an event loop."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def store(
    chromium: str, digits: Path, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Store:
    """Two bundles of one model, of which the current one was audited against models that were really retrained."""
    opened = Store(tmp_path_factory.mktemp("explorer") / "store")
    shutil.copytree(digits / "store", opened.root)
    spec = load_spec(digits / "model" / "explain.yaml")
    damped = spec.model_copy(update={"curvature": spec.curvature.model_copy(update={"damping": 0.1})})
    rebuild(damped, opened, RebuildOptions(publish=False, quiet=True))
    _audit(opened.current("digits"), _THOROUGH if pytestconfig.getoption("--screenshots") else _QUICK)
    return opened


def _audit(bundle: Path, checks: dict[str, Any]) -> None:
    audits_of(bundle).mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewSubsetsWarning)
        options = AuditOptions(audits_of(bundle), **checks)
        keep_audit(bundle, full_audit(open_bundle(bundle), options, StageProgress(quiet=True)))


@pytest.fixture(scope="session")
def gateway(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """The gateway of all these tests; it serves what an operator may allow."""
    running = RunningGateway(store.root, tmp_path_factory.mktemp("gateway") / "gateway.log", *ALLOWED)
    try:
        running.wait_ready()
        yield running
        running.stop()
    finally:
        running.close()


@pytest.fixture(scope="session")
def image() -> str:
    """A digit that the model has not seen, as addresses carry it."""
    content = io.BytesIO()
    digits_data.test()[0][0].save(content, format="PNG")
    return base64.urlsafe_b64encode(content.getvalue()).decode().rstrip("=")


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens pages of an origin (keywords go to the context), and fails the test for what went wrong in them."""
    opened: list[WatchedPage] = []

    def open_one(origin: str, **options: object) -> WatchedPage:
        opened.append(WatchedPage(browser, origin, **options))
        return opened[-1]

    yield open_one
    for page in opened:
        page.close()
    assert [fault for page in opened for fault in page.faults] == []


@pytest.fixture
def page(open_page: Open, gateway: RunningGateway) -> WatchedPage:
    return open_page(gateway.http_url)
