"""Third-party files of the explorer and of its tests are what VENDOR.json says, with their licences."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = [ROOT / "serve/proponent/explorer/static/vendor", ROOT / "tests/vendor"]


@pytest.mark.parametrize("folder", FOLDERS, ids=["explorer", "tests"])
def test_files_have_their_checksums_and_none_is_unlisted(folder: Path) -> None:
    packages = json.loads((folder / "VENDOR.json").read_text())
    listed = {name: sha256 for about in packages.values() for name, sha256 in about["sha256"].items()}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert found.pop("VENDOR.json") and found == listed


@pytest.mark.parametrize("folder", FOLDERS, ids=["explorer", "tests"])
def test_each_package_has_its_licence_and_the_version_that_scripts_vendor_pins(folder: Path) -> None:
    script = (ROOT / "scripts/vendor").read_text()
    for name, about in json.loads((folder / "VENDOR.json").read_text()).items():
        assert f" {name}@{about['version']} " in script
        assert f"{name}.LICENSE.txt" in about["sha256"] and about["license"] in ("MIT", "Apache-2.0", "MPL-2.0")


def test_modules_import_only_files_beside_them() -> None:
    for path in FOLDERS[0].glob("*.js"):
        for imported in re.findall(r'\bfrom ?"([^"]*)"', path.read_text()):
            assert imported.startswith("./") and (path.parent / imported).is_file(), (path.name, imported)
