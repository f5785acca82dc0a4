"""Takes models into service whose bundle could not be read when the gateway started, once it can be."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from proponent.errors import as_state
from proponent.gateway.error_mapping import as_proponent_error
from proponent.gateway.rollout.switch import Rollout
from proponent.gateway.served_model import ServedModel

_FIRST_DELAY_S = 2.0
_LONGEST_DELAY_S = 60.0
_log = structlog.get_logger("proponent.gateway")


async def take_up_repaired(models: Mapping[str, ServedModel], rollout: Rollout) -> None:
    """Tries them again, ever more rarely, until each is served; runs until cancelled."""
    delay = _FIRST_DELAY_S
    while True:
        await asyncio.sleep(delay)
        delay = min(2 * delay, _LONGEST_DELAY_S)
        for model in models.values():
            if not model.readable:
                await _try(model, rollout)


async def _try(model: ServedModel, rollout: Rollout) -> None:
    try:
        await rollout.take_up(model.name)
    except Exception as error:
        known = as_state(as_proponent_error(error))
        if not model.readable and (model.error is None or model.error.message != known.message):
            _log.warning("bundle still cannot be served", model=model.name, reason=known.reason, why=known.message)
            model.error = known
