"""Progress from inside of other libraries, and of work that has several parts.

Knows nothing about models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from analysis.late import transformers
from analysis.values import Progress

Tell = Callable[[int, int], None]
"""Gets how many steps are done, and of how many; what it raises ends the work."""


@contextmanager
def bars_told(tell: Tell) -> Iterator[None]:
    """Tell every step of the bars that transformers draws, or would draw, inside the ``with``.

    Its bars count the tensors that are read and the files that are written. What ``tell`` raises is raised
    here as it is, whatever transformers or its callers make of it.
    """
    raised: list[BaseException] = []

    def told(done: int, total: int) -> None:
        try:
            tell(done, total)
        except BaseException as error:
            raised.append(error)
            raise

    before = transformers.utils.logging.set_tqdm_hook(
        lambda factory, args, options: _Bar(factory(*args, **options), args, options, told)
    )
    try:
        yield
    except BaseException as error:
        if raised and error is not raised[0]:
            raise raised[0] from None
        raise
    finally:
        transformers.utils.logging.set_tqdm_hook(before)


class _Bar:
    """Stands in for a bar of tqdm: the bar itself, which tells its steps."""

    def __init__(self, bar: Any, args: tuple[Any, ...], options: dict[str, Any], tell: Tell) -> None:
        self._bar, self._tell, self._done = bar, tell, 0
        steps: Any = args[0] if args else options.get("iterable")
        total = options.get("total")
        if total is None and hasattr(steps, "__len__"):
            total = len(steps)
        self._total = int(total or 0)
        if self._total:
            tell(0, self._total)

    def __iter__(self) -> Iterator[Any]:
        for each in self._bar:
            yield each
            self._step(1)

    def update(self, steps: float | None = 1) -> Any:
        """Go on by so many steps."""
        self._step(int(steps or 0))
        return self._bar.update(steps)

    def _step(self, steps: int) -> None:
        self._done += steps
        if self._total:
            self._tell(min(self._done, self._total), self._total)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bar, name)


def part_of(progress: Progress, begun: int, total: int) -> Progress:
    """The listener of a part of some work, of whose ``total`` steps ``begun`` were done before."""
    return lambda phase, done, _: progress(phase, begun + done, total)
