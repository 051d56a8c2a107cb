"""Work on many files by all cores, in order."""
from collections import deque
from concurrent.futures import ThreadPoolExecutor

_AHEAD = 64  # results that may wait to be taken


def in_order(function, items):
    """Give function(item) of each item, in order; threads are a few items ahead, so that memory stays bounded.

    An error of a call is raised in its place; what was not begun is dropped then, as when the generator is closed.
    """
    with ThreadPoolExecutor() as pool:
        tasks = deque()
        try:
            for item in items:
                tasks.append(pool.submit(function, item))
                if len(tasks) > _AHEAD:
                    yield tasks.popleft().result()
            while tasks:
                yield tasks.popleft().result()
        finally:
            for task in tasks:
                task.cancel()
