"""Opens the rows of a bundle on a cluster, for a worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import ray

from proponent.cluster_connection import connect
from proponent.index.bundle import Manifest
from proponent.shards.ray_scanners import RayScanners
from proponent.shards.sharded_index import ShardedIndex

_LATER_S = 1.0


@dataclass
class ClusterRows:
    """Where a worker's rows lie; scanners that were made are kept while it tries again.

    Attributes:
        address: Of the cluster.
        shards: Most of them.
        cores: Of each scanner.
        namespace: Of the scanners' names: workers that have the same one share them.
        patience_s: How long the first attempt waits for the rows to be loaded.
    """

    address: str
    shards: int
    cores: int
    namespace: str
    patience_s: float
    _index: ShardedIndex | None = field(default=None, init=False)

    def open(self, bundle: Path, manifest: Manifest) -> ShardedIndex:
        """The rows of the one bundle that this is asked for, all loaded.

        Raises:
            UnavailableError: There is no cluster, or not all rows are loaded yet; they go on loading.
            CorruptBundleError: The rows are not those of the manifest.
        """
        if not ray.is_initialized():
            connect(self.address, namespace=self.namespace)
        if self._index is None:
            make = partial(RayScanners, cores=self.cores)
            self._index = ShardedIndex.of_bundle(bundle, manifest, self.shards, make)
        patience_s, self.patience_s = self.patience_s, _LATER_S
        self._index.wait(patience_s)
        return self._index
