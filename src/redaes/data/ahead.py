"""Work in threads ahead of whoever wants its results: images are opened while a model looks at those before."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(function: Callable[[T], R], items: Iterable[T], *, held: int, threads: int) -> Generator[R, None, None]:
    """Results in the order of the items, some of them made before they are asked for.

    Args:
        function: called with each item, in threads; what it raises is raised when its result is due.
        items: taken as they are needed.
        held: results made or under way beyond the one that was last given, at most.
        threads: that work at the same time.

    Example:
        >>> list(ahead(len, ["a", "bc", ""], held=2, threads=2))
        [1, 2, 0]
    """
    remaining = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        try:
            flight: deque[Future[R]] = deque(pool.submit(function, item) for item in islice(remaining, held))
            while flight:
                result = flight.popleft().result()
                flight.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)
