"""A question without an answer says nothing of a model: it is asked again until a worker has said how it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway_fakes import Service, broken, catalog, manifest
from proponent.errors import CorruptBundleError, ProponentError, UnavailableError
from proponent.gateway.deployment import BundleHandle
from proponent.gateway.error_mapping import retry_after
from proponent.gateway.hosting.host import REFUSED, WorkerGroup, WorkerStatus
from proponent.gateway.hosting.supervisor import Supervisor
from proponent.gateway.hosting.worker_state import EVERY_S, Prober, StartClock
from proponent.gateway.lane import Lane
from proponent.gateway.served_model import Readiness, ServedModel


class Worker:
    """Answers from a list: an error that is raised, or a verdict."""

    def __init__(self, *script: ProponentError | Callable[[], ProponentError] | None) -> None:
        self.script = list(script)
        self.asked: list[float] = []
        self.now = 0.0

    async def ask(self) -> ProponentError | None:
        self.asked.append(self.now)
        answer = self.script.pop(0)
        if callable(answer):
            raise answer()
        return answer

    async def run(self, prober: Prober, seconds: float) -> None:
        for _ in range(int(seconds / 0.25)):
            prober.probe_if_due()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.now += 0.25


def silent() -> ProponentError:
    return UnavailableError("no answer", reason="WORKER_UNRESPONSIVE")


def probing(*script: ProponentError | Callable[[], ProponentError] | None) -> tuple[Worker, Prober]:
    worker = Worker(*script)
    return worker, Prober("toy", worker.ask, lambda: worker.now)


def test_it_asks_until_it_is_certain_and_then_from_time_to_time() -> None:
    worker, prober = probing(*[silent] * 4, None, None)

    async def run() -> None:
        await worker.run(prober, 3.0)
        assert prober.error is not None and not prober.certain and retry_after(prober.error) is not None
        await worker.run(prober, 1.25)
        assert prober.error is None and prober.certain
        await worker.run(prober, EVERY_S)

    asyncio.run(run())
    assert worker.asked == [0.0, 0.25, 0.75, 1.75, 3.75, 3.75 + EVERY_S]


def test_a_ready_model_that_falls_silent_is_not_ready_and_comes_back() -> None:
    worker, prober = probing(None, silent, None)

    async def run() -> None:
        await worker.run(prober, 1.0)
        assert prober.error is None
        await worker.run(prober, EVERY_S - 1.0)
        await worker.run(prober, 0.25)
        assert prober.error is not None and prober.error.reason == "WORKER_UNRESPONSIVE"
        await worker.run(prober, 0.5)
        assert prober.error is None

    asyncio.run(run())


def test_what_a_worker_says_of_its_bundle_is_kept_until_it_says_otherwise() -> None:
    worker, prober = probing(CorruptBundleError("rows"), CorruptBundleError("rows"), None)

    async def run() -> None:
        await worker.run(prober, EVERY_S + 1)
        assert isinstance(prober.error, CorruptBundleError) and prober.certain
        await worker.run(prober, EVERY_S)
        assert prober.error is None

    asyncio.run(run())


def test_a_defect_while_asking_does_not_end_the_asking() -> None:
    async def run() -> list[bool]:
        answers: list[Exception | None] = [ValueError("no reply"), None]

        async def ask() -> ProponentError | None:
            answer = answers.pop(0)
            if answer is not None:
                raise answer
            return None

        now = 0.0
        prober, seen = Prober("toy", ask, lambda: now), []
        for _ in range(3):
            prober.probe_if_due()
            await asyncio.sleep(0.01)
            seen.append(prober.error is None)
            now += 1.0
        return seen

    assert asyncio.run(run()) == [False, True, True]


def test_the_answer_of_a_worker_that_is_gone_counts_for_nothing() -> None:
    async def run() -> None:
        answer: asyncio.Future[ProponentError | None] = asyncio.get_running_loop().create_future()

        async def ask() -> ProponentError | None:
            return await asyncio.shield(answer)

        prober = Prober("toy", ask)
        prober.probe_if_due()
        await asyncio.sleep(0)
        prober.reset()
        answer.set_result(None)
        await asyncio.sleep(0.01)
        assert prober.error is not None and not prober.certain

    asyncio.run(run())


def _model(name: str, error: ProponentError | None, starting: bool) -> ServedModel:
    model = broken(error or CorruptBundleError(name))
    model.set_error(error)
    if starting:
        model._unknown = set(Lane)
    return model


def test_a_gateway_is_ready_when_all_were_tried_and_as_long_as_one_is_able() -> None:
    damaged, wait = CorruptBundleError("damaged"), UnavailableError("starting")
    for models, expected in (
        ([(None, False)], None),
        ([(damaged, False)], damaged),
        ([(None, False), (damaged, False)], None),
        ([(None, False), (wait, True)], wait),
        ([(damaged, False), (wait, True)], wait),
        ([(wait, False), (None, False)], None),
        ([(wait, False), (damaged, False)], wait),
    ):
        served = {str(n): _model(str(n), *each) for n, each in enumerate(models)}
        assert Readiness(served).error() is expected


def test_what_is_wrong_with_a_bundle_is_told_by_every_lane_before_what_its_own_workers_lack() -> None:
    """A prediction worker that still starts beside a damaged bundle is not waited for in vain."""
    damaged, wait = CorruptBundleError("damaged"), UnavailableError("starting", reason="WORKER_STARTING")
    model = broken(CorruptBundleError("before"))
    model.set_error(wait)
    model.set_error(damaged, Lane.EXPLANATIONS)
    assert [model.error_of(lane) for lane in Lane] == [damaged, damaged] and model.error is damaged
    model.set_error(wait, Lane.EXPLANATIONS)
    assert {model.error_of(lane) for lane in Lane} == {wait}


class Registry:
    """A host in a test: notes what is registered, and refuses some."""

    def __init__(self, *refused: str) -> None:
        self.log: list[str] = []
        self._refused = refused

    async def register(self, group: WorkerGroup) -> None:
        if group.model in self._refused:
            raise UnavailableError("no such model here", reason=REFUSED)
        self.log.append(f"register {group.name}")

    async def unregister(self, group: WorkerGroup) -> None:
        self.log.append(f"unregister {group.name}")

    async def workers(self, group: WorkerGroup) -> list[WorkerStatus]:
        return [WorkerStatus("9000", 1, "READY")]


def test_a_model_that_does_not_start_is_started_again_and_no_other(tmp_path: Path) -> None:
    """Before, TorchServe as a whole was, and every other model with it."""
    service = Service(tmp_path, start_timeout=0.01)
    host: Any = Registry()

    async def run() -> None:
        supervisor = supervising(service)
        deployment = service.model.deployment
        supervisor.adopt(deployment, [g for g in supervisor.groups(deployment) if g.lane is Lane.EXPLANATIONS])
        watched = supervisor._states["toy", Lane.EXPLANATIONS]
        await asyncio.sleep(0.02)
        await supervisor._update(watched, [WorkerStatus("9000", 1, "UNLOADED")], host)
        assert service.model.error is not None and service.model.error.reason == "WORKER_STARTING"
        assert service.model.error_of(Lane.PREDICTIONS) is None

    asyncio.run(run())
    service.close()
    assert host.log == ["unregister toy", "register toy"]


def supervising(service: Service) -> Supervisor:
    tools: Any = (service.models, service.worker, None, service.settings, service.metrics, lambda: None)
    return Supervisor(*tools)


def test_a_model_that_the_host_refuses_leaves_the_host_to_the_others(tmp_path: Path) -> None:
    """Before, TorchServe was started again for it, for ever, and no model was served."""
    service = Service(tmp_path)
    (tmp_path / "odd").mkdir()
    odd = ServedModel("odd", BundleHandle(tmp_path, manifest(), catalog(tmp_path / "odd"), service.tombstones))
    service.models["odd"] = odd
    host: Any = Registry("odd")

    async def run() -> None:
        supervisor = supervising(service)
        for _ in range(2):
            for state in list(supervisor._states.values()):
                await supervisor._inspect(state, host)
        assert odd.error is not None and odd.error.reason == REFUSED and not odd.starting
        assert {state.registered for state in supervisor._states.values() if state.deployment.model == "odd"} == {
            False
        }

    asyncio.run(run())
    odd.close()
    service.close()
    assert host.log == ["register toy~predictions", "register toy"]


def test_only_a_worker_that_never_was_ready_died_while_it_started() -> None:
    def listed(*pids: int) -> list[WorkerStatus]:
        return [WorkerStatus("9000", pid, "UNLOADED") for pid in pids]

    clock = StartClock(frozenset({4}))
    assert [clock.died_while_starting(listed(pid)) for pid in (-1, 4, 5, 5, 6)] == [False, False, False, False, True]
