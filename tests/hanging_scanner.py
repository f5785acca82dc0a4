"""A process that searches rows in shards on a cluster while a scanner is stopped: a script, see ``test_ray``.

Arguments: the cluster's address, and a bundle. It prints what searches gave or were refused with, and goes on after
the first when it is given a line.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import ray
import torch

from proponent.errors import UnavailableError
from proponent.index.bundle import read_manifest
from proponent.index.rows import InfluenceIndex
from proponent.index.scan import Query
from proponent.index.search import search
from proponent.options import Measure
from proponent.shards import ray_scanners
from proponent.shards.cluster_rows import ClusterRows


def main(address: str, bundle: Path) -> None:
    """Searches, loses a scanner, and searches again."""
    ray_scanners.HANG_S = 2.0
    manifest = read_manifest(bundle)
    index = ClusterRows(address, 2, 1, "hanging", 600.0).open(bundle, manifest)
    alone = InfluenceIndex.of_bundle(bundle, manifest)
    queries = [Query(torch.nn.functional.normalize(torch.ones(index.size), dim=0), 1.0, 7)]
    expected = search(alone, queries, tuple(Measure))
    print("found" if search(index, queries, tuple(Measure)) == expected else "differs", flush=True)
    sys.stdin.readline()
    try:
        search(index, queries, tuple(Measure))
    except UnavailableError as error:
        print(error.reason, flush=True)
    while True:
        try:
            index.check()
            break
        except UnavailableError as error:
            assert error.reason == "SHARD_LOST", error
            time.sleep(0.2)
    print("found" if search(index, queries, tuple(Measure)) == expected else "differs", flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
