"""A Ray cluster of several nodes on this machine; a script, so that no test imports Ray (see ray_cluster).

It prints its address, and the process id of each node that it adds; it reads ``add`` and ``remove PID`` and ends all
nodes at the end of its input.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ray.cluster_utils import Cluster

COMMON = {"object_store_memory": 100 << 20, "include_dashboard": False, "node_ip_address": "127.0.0.1"}
IMPATIENT = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 6,
}


TRIES = 5


def patiently(make: Callable[[], Any]) -> Any:
    """What comes up in the end: Ray gives the parts of a node half a minute, which is short on a busy machine."""
    for count in range(TRIES):
        try:
            return make()
        except Exception:  # of any kind, by what is late
            if count == TRIES - 1:
                raise


def main(nodes: int, processors: int) -> None:
    """Head, which computes nothing, and nodes of so many processors."""
    head = {**COMMON, "num_cpus": 0, "_system_config": IMPATIENT}
    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    print(cluster.address, flush=True)
    found: dict[int, Any] = {}

    def add() -> None:
        node = patiently(lambda: cluster.add_node(num_cpus=processors, **COMMON))
        pid = node.all_processes["raylet"][0].process.pid
        found[pid] = node
        print(pid, flush=True)

    for _ in range(nodes):
        add()
    for line in sys.stdin:
        command, _, pid = line.strip().partition(" ")
        if command == "add":
            add()
        else:
            cluster.remove_node(found.pop(int(pid)), allow_graceful=False)
            print(pid, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
