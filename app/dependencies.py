"""What routes ask for, by type. Coroutines, because FastAPI sends plain functions through a thread."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from app.requests import StageTimes
from app.service import Service


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _times(request: Request) -> StageTimes:
    times: StageTimes = request.state.times
    return times


ServiceOf = Annotated[Service, Depends(_service)]
TimesOf = Annotated[StageTimes, Depends(_times)]
