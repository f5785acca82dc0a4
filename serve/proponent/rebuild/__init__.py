"""The offline pipeline: from a spec to a published bundle. The package can be called: ``rebuild(spec, store)``.

The public name ``proponent.rebuild`` is the function of `proponent.rebuild.pipeline` and this package at once, as an
imported package always takes its name in the one above.

>>> from proponent import RebuildOptions, Store, load_spec, rebuild
>>> bundle = rebuild(load_spec(project), Store(store), RebuildOptions(publish=False, quiet=True))
>>> bundle.parent.name, len(bundle.name)  # its directory: named by the SHA-256 of its manifest
('bundles', 64)

The quick audit, and damping ``auto``, belong to the command ``proponent rebuild`` and to `proponent.rebuilding`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proponent.index.store import Store
    from proponent.rebuild.pipeline import RebuildOptions
    from proponent.spec import ModelSpec


class _Callable(ModuleType):
    def __call__(self, spec: ModelSpec, store: Store, options: RebuildOptions | None = None) -> Path:
        """See `proponent.rebuild.pipeline.rebuild`."""
        from proponent.rebuild.pipeline import rebuild

        return rebuild(spec, store, options)


sys.modules[__name__].__class__ = _Callable
