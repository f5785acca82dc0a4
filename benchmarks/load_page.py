"""The section "Under load" of docs/performance.md, made of what ``load.py`` measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Throughput of the gateway by that of its TorchServe, by clients.
TARGETS = {
    "gRPC Predict": {1: 0.7, 8: 0.65, 32: 0.6},
    "HTTP Predict": {1: 0.6, 8: 0.5, 32: 0.45},
    "gRPC Explain": {1: 0.95, 8: 0.9, 32: 0.9},
    "HTTP Explain": {1: 0.9, 8: 0.85, 32: 0.9},
}
CPU_TARGETS = {"gRPC": 0.5, "HTTP": 0.8}
BESIDE_TARGETS = {"throughput": ">= 0.5", "p99": "<= 2"}


def section(results: Mapping[str, Any]) -> str:
    """All tables that the results have figures for."""
    parts = [
        f"{results['machine']}; {results['rounds']} rounds of {results['seconds']:g} s, gateway and TorchServe in "
        "turn; load average at the beginning and the end: "
        f"{results['load_average'][0]:.1f}, {results['load_average'][1]:.1f}.\n"
    ]
    makers = {"matrix": _matrix, "floor": _floor, "beside": _beside, "in_process": _in_process, "soak": _soak}
    for name, make in makers.items():
        if results.get(name):
            parts.append(make(results[name]))
    return "\n".join(parts)


def _matrix(rows: Sequence[Mapping[str, Any]]) -> str:
    head = (
        "| call | clients | gateway: a second, p50, p99 ms | TorchServe alone | ratio (target) | CPU-ms a call: "
        "gateway (target), Java, workers | errors |\n|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(_row(row) for row in rows)


def _row(row: Mapping[str, Any]) -> str:
    call, clients, cpu = row["call"], row["clients"], row["gateway"]["cpu_ms_per_call"]
    target = TARGETS.get(call, {}).get(clients)
    wanted = f" ({target})" if target else ""
    cpu_target = CPU_TARGETS.get(call.split()[0])
    cpu_wanted = f" ({cpu_target})" if cpu_target else ""
    errors = {**row["gateway"]["errors"], **{f"TorchServe: {k}": v for k, v in row["torchserve"]["errors"].items()}}
    told = ", ".join(f"{count} {name}" for name, count in errors.items()) or "none"
    return (
        f"| {call} | {clients} | {_speed(row['gateway'])} | {_speed(row['torchserve'])} | {row['ratio']:.2f}{wanted} "
        f"| {cpu['gateway']:.2f}{cpu_wanted}, {cpu['java']:.2f}, {cpu['workers']:.2f} | {told} |\n"
    )


def _speed(found: Mapping[str, Any]) -> str:
    return f"{found['per_second']:,.0f}, {found['p50_ms']}, {found['p99_ms']}"


def _floor(rows: Sequence[Mapping[str, Any]]) -> str:
    told = "".join(
        f"| {row['clients']} | {_speed(row)} | {row['cpu_ms_per_call']['gateway']:.2f} |\n" for row in rows
    )
    return (
        "An empty method of grpc's own asynchronous server, in a process of its own: what is below every gRPC call "
        f"of the gateway.\n\n| clients | a second, p50, p99 ms | CPU-ms a call |\n|---|---|---|\n{told}"
    )


def _beside(found: Mapping[str, Any]) -> str:
    rows = "".join(
        f"| {name} | {_speed(found[key])} |\n"
        for name, key in (
            (f"{found['predicting']} clients predict, alone", "alone"),
            (f"the same beside {found['explaining_clients']} that explain", "beside"),
            ("those", "explaining"),
        )
    )
    ratios = ", ".join(f"{name} {value:.2f} ({BESIDE_TARGETS[name]})" for name, value in found["ratios"].items())
    return f"| gRPC | a second, p50, p99 ms |\n|---|---|\n{rows}\nBeside by alone: {ratios}.\n"


def _in_process(rows: Sequence[Mapping[str, Any]]) -> str:
    told = "".join(f"| {row['threads']} | {row['batch']} | {row['per_second']:,.0f} |\n" for row in rows)
    return f"| Explainer without a service: threads | batch | explanations a second |\n|---|---|---|\n{told}"


def _soak(found: Mapping[str, Any]) -> str:
    slopes = ", ".join(f"{name} {value:+.1f}" for name, value in found["mib_an_hour"].items())
    return (
        f"A soak of {found['minutes']:g} minutes (4 clients predict by gRPC, 8 explain by HTTP): "
        f"{found['answered']:,} answers, errors: {found['errors'] or 'none'}; memory in MiB an hour, without the "
        f"first quarter (median of pairs): {slopes}.\n"
    )
