"""What an audit measured of a bundle, kept beside the store's bundles: a bundle itself never changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proponent.errors import CorruptBundleError
from proponent.index.bundle import Manifest, write_json

AUDITS = "audits"


def audits_of(bundle: Path) -> Path:
    """Directory of the audits of a bundle's model."""
    return bundle.parent.parent / AUDITS


def keep_audit(bundle: Path, metrics: Mapping[str, Any]) -> None:
    """Writes what an audit measured; checks that an audit before made, and this one did not, stay."""
    audits_of(bundle).mkdir(exist_ok=True)
    write_json(_path(bundle), {**_kept(_path(bundle)), **metrics})


def known_audit(bundle: Path, manifest: Manifest) -> dict[str, Any]:
    """All that is measured of a bundle: the quick audit of its rebuild, and what ``proponent audit`` added since.

    Numbers that are not finite (an interval of a single query) become None, which every format can hold.

    Raises:
        CorruptBundleError: The file of the audit cannot be read.
    """
    return {**manifest.audit, **_kept(_path(bundle))}


def _kept(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(content, dict):
        raise _damaged(path, f"holds a {type(content).__name__}, expected an object")
    return content


def _damaged(path: Path, why: str) -> CorruptBundleError:
    return CorruptBundleError(
        f"audit cannot be read: {path}: {why}: remove it and run proponent audit again", field=AUDITS
    )


def _path(bundle: Path) -> Path:
    return audits_of(bundle) / f"{bundle.name}.json"
