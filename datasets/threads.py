"""Work done by threads: many items in order by all cores, and a pool that never keeps the process from ending."""
import time
import weakref
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Thread, current_thread

from common.cores import cpu_count

_PATIENCE = 5  # seconds in which threads may finish what they are at when their pool is closed


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


class DaemonPool:
    """Threads for calls that may never return, such as reads of a network disk that has gone.

    Unlike ThreadPoolExecutor's they do not keep the process from ending. workers: how many; name: of the threads.
    """

    def __init__(self, workers, name):
        self._tasks = SimpleQueue()
        threads = [Thread(target=_work, args=(self._tasks,), name=f"{name}_{k}", daemon=True) for k in range(workers)]
        for thread in threads:
            thread.start()
        self._end = weakref.finalize(self, _end, self._tasks, threads)  # also at the interpreter's exit

    def submit(self, function, *args):
        """Let a thread call function(*args). Returns its concurrent.futures.Future."""
        if not self._end.alive:
            raise RuntimeError("the threads of this pool have ended")
        task = Future()
        self._tasks.put((task, function, args))
        return task

    def close(self):
        """End the threads, each after what it was given; one that does not come back in 5 seconds is left behind."""
        self._end()


def _work(tasks):
    for task, function, args in iter(tasks.get, None):
        if task.set_running_or_notify_cancel():
            try:
                task.set_result(function(*args))
            except BaseException as error:
                task.set_exception(error)
        del task, function, args  # a thread that waits keeps no batch in memory


def _end(tasks, threads):
    for _ in threads:
        tasks.put(None)
    deadline = time.monotonic() + _PATIENCE
    for thread in threads:
        if thread is not current_thread():  # where a thread of the pool held the last word of it
            thread.join(max(0, deadline - time.monotonic()))
