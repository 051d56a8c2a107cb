"""Work on many files by all cores, in order."""
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from common.cores import cpu_count


def in_order(function, items, ahead=64):
    """Give function(item) of each item, in order; threads are at most `ahead` items ahead, so memory stays bounded.

    An error of a call is raised in its place; what was not begun is dropped then, as when the generator is closed.
    """
    with ThreadPoolExecutor(cpu_count()) as pool:
        tasks = deque()
        try:
            for item in items:
                tasks.append(pool.submit(function, item))
                if len(tasks) > ahead:
                    yield tasks.popleft().result()
            while tasks:
                yield tasks.popleft().result()
        finally:
            for task in tasks:
                task.cancel()
