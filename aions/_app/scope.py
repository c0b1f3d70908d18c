"""What is open for the length of an `async with` block, and what happens to it when the event loop ends inside of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Scope(AbstractAsyncContextManager[T, None], Generic[T]):
    """Opens something on entry, and closes what it has pushed on a stack on exit.

    This is not `contextlib.asynccontextmanager`, because an event loop that ends finalises every asynchronous generator, all at
    once: one that nobody closes would close its worker while the loop's own things end under it, and one in the block of
    another would be closed twice. A block that nobody leaves has nothing to be finalised; `Home` lets its worker go.
    """

    def __init__(self, opened: Callable[[AsyncExitStack], Awaitable[T]]) -> None:
        self._opened = opened
        self._stack: AsyncExitStack | None = None
        self._value: T | None = None  # a handle that is dropped while it is open complains

    async def __aenter__(self) -> T:
        if self._stack is not None:
            raise RuntimeError("this block was entered already: open another")
        async with AsyncExitStack() as stack:
            opened = await self._opened(stack)
            self._stack = stack.pop_all()
        self._value = opened
        return opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._stack is not None
        await self._stack.__aexit__(kind, error, traceback)
        self._value = None
