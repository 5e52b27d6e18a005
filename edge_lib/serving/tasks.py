"""Tasks that run at once, and end together."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def gather(tasks: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results. The first error cancels what is under way, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(task) for task in tasks]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in running]
