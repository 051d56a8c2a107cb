"""The workers of a training on several machines, and how they sum: MXNet's parameter server, or Horovod.

Every worker has the whole model and computes the gradients of its part of each batch. They get the sum of these and
make the same step of SGD, each for itself. Nothing but sums goes between them: what all are to have of the first is
summed with zeros of the others, and what each has is gathered into rows of a sum.
"""
import json
import os
import zlib
from collections import deque
from contextlib import contextmanager
from itertools import cycle

import numpy as np

from common.errors import UserError
from common.mxnet_setup import mx

_STARTED = {"DMLC_NUM_WORKER": "dist_sync", "HOROVOD_SIZE": "horovod"}  # how many workers a launcher says there are
_BEHIND = 2  # calls ago, so that no worker waits for the answer to what it has just asked
_NEEDED = ("DMLC_ROLE", "DMLC_PS_ROOT_URI", "DMLC_PS_ROOT_PORT", "DMLC_NUM_WORKER", "DMLC_NUM_SERVER")


def expected_workers():
    """How many workers a launcher says that there are; 1 where none has started this process."""
    return max(int(os.environ.get(variable) or 1) for variable in _STARTED)


class Alone:
    """The one worker of a training on one machine. kvstore: how Module sums over its devices, 'device' or 'local'."""

    rank, size = 0, 1

    def __init__(self, kvstore="device"):
        self.kvstore = kvstore

    def share(self, arrays, source=0):
        """Write over everyone's arrays, dict name -> NDArray, with those of one worker."""

    def sum(self, name, array):
        """Write over an NDArray with its sum over the workers. name: of its own for each shape."""

    def gather(self, values):
        """Numbers of each worker, (K,), as float64 (size, K)."""
        return np.array([values], np.float64)

    def tell(self, text):
        """The text that the first worker gives."""
        return text

    def agree(self, asked):
        """A callable that all workers call alike, and that becomes true in all of them at once, soon after the callable
        `asked` became true in one."""
        return asked

    def check(self, facts):
        """Raise UserError unless all workers have the same facts, dict str -> what JSON can hold."""

    def leave(self):
        """End without waiting for the others."""


class Together(mx.kvstore.KVStoreBase):
    """Several workers, with the calls of Alone, and those by which Module takes it for its kvstore.

    A subclass has the number of this worker (rank), of all of them (size), `pushpull` and `leave`.
    """

    type = "dist_sync"  # Module then counts the batches of all workers
    rank, size = 0, 1

    @property
    def kvstore(self):
        """What Module sums with."""
        return self

    @property
    def num_workers(self):
        """For Module."""
        return self.size

    @staticmethod
    def is_capable(capability):
        """For Module: the optimiser runs in the workers, so that each has its state, to be saved and set."""
        return False

    def init(self, key, value):
        """For Module; see `share`."""

    def pushpull(self, key, value, out=None, priority=0):
        """Write over every NDArray of the list `value` with the sum over them and over all workers.

        Two sums of one key must not be under way at once, unless they are of the very same arrays: MXNet would add up
        one worker's first with another's second.
        """
        raise NotImplementedError

    def share(self, arrays, source=0):
        used = set()
        for name, array in arrays.items():
            key = name.rpartition(":")[2]  # of parameters and momenta, which the servers hold only once
            if key in used:
                mx.nd.waitall()
                used.clear()
            used.add(key)
            if self.rank != source:
                array[:] = 0
            self.sum(key, array)
        mx.nd.waitall()

    def sum(self, name, array):
        self.pushpull(name, [array])

    def everyones(self, parts):
        """What the workers give, a list of dicts name -> NDArray each: these lists, one after the other."""
        found = []
        for worker in range(self.size):
            copies = [{name: array.copy() for name, array in part.items()} for part in parts]
            for part in copies:
                self.share(part, worker)
            found += copies
        return found

    def gather(self, values):
        rows = np.zeros((self.size, 4 * len(values)), np.float32)  # which servers round float64 to, seen in trainings
        rows[self.rank] = np.array(values, np.float64).view(np.uint16)
        array = mx.nd.array(rows)
        self.sum(f"rows of {len(values)}", array)
        return array.asnumpy().astype(np.uint16).view(np.float64)

    def tell(self, text):
        data = np.frombuffer(text.encode(), np.uint8)
        length = int(self.gather([len(data)])[0, 0])
        array = mx.nd.array(data if self.rank == 0 else np.zeros(length), dtype=np.float32)
        self.share({f"text of {length}": array})
        return array.asnumpy().astype(np.uint8).tobytes().decode()

    def agree(self, asked):
        flags, turns = deque(), cycle(range(_BEHIND + 1))  # those of a turn's last sum have been waited for

        def agreed():
            flags.append(mx.nd.array([bool(asked())]))
            self.sum(f"stop {next(turns)}", flags[-1])
            return len(flags) > _BEHIND and flags.popleft().asscalar() > 0
        return agreed

    def check(self, facts):
        here = mx.nd.one_hot(mx.nd.array([self.rank]), self.size)
        self.sum("workers", here)
        counts = here.asnumpy().ravel().astype(int)
        if counts.max() > 1:
            raise UserError(f"of {self.size} workers, {counts.max()} have DMLC_WORKER_ID {counts.argmax()}; expected "
                            f"0 to {self.size - 1}, each once")
        rows = self.gather([zlib.crc32(json.dumps(value).encode()) for value in facts.values()])
        for key, column in zip(facts, rows.T):
            others = np.flatnonzero(column != column[self.rank])
            if len(others):
                raise UserError(f"worker {self.rank} has {key} {facts[key]!r}, worker {others[0]} another; expected "
                                "the same data and flags everywhere")


class ParameterServer(Together):
    """Workers that sum through the servers of MXNet's parameter server; the variables DMLC_* say where these are.

    kind: 'dist_sync', or 'dist_device_sync', which adds the devices of a worker up on these devices.
    """

    def __init__(self, kind):
        missing = [name for name in _NEEDED if not os.environ.get(name)]
        if missing:
            raise UserError(f"--kvstore {kind}: {missing[0]} is not set; start the workers, servers and the scheduler "
                            "with recognition/launch.py (docs/many-machines.md)")
        self._store, self._known = mx.kv.create(kind), set()
        self.size = self._store.num_workers
        # MXNet numbers them as they happen to come; the launcher says which shall be the first, that writes the files.
        self.rank = int(os.environ.get("DMLC_WORKER_ID", self._store.rank))

    def pushpull(self, key, value, out=None, priority=0):
        if key not in self._known:
            self._store.init(key, value[0])
            self._known.add(key)
        self._store.pushpull(key, value, priority=priority)

    def leave(self):
        # Left alone, MXNet waits at its end until all workers have come to theirs.
        mx.base.check_call(mx.base._LIB.MXKVStoreSetBarrierBeforeExit(self._store.handle, 0))


class Horovod(Together):
    """Workers that sum by Horovod's allreduce; `horovodrun` starts them."""

    def __init__(self):
        try:
            import horovod.mxnet as horovod
        except ImportError as error:
            raise UserError(f"--kvstore horovod: {error}; docs/many-machines.md says how Horovod is built") from error
        horovod.init()
        self._horovod, self.rank, self.size = horovod, horovod.rank(), horovod.size()

    def pushpull(self, key, value, out=None, priority=0):
        first, *others = value
        for other in others:
            first += other.as_in_context(first.context)
        self._horovod.allreduce_(first, average=False, name=key, priority=priority)
        for other in others:
            first.copyto(other)

    def leave(self):
        self._horovod.shutdown()


@contextmanager
def connect(kvstore):
    """The workers that a training belongs to, by its --kvstore. A block that fails leaves the others to themselves.

    Raises UserError where a launcher has started several that would each train for themselves, or none was used.
    """
    for variable, needed in _STARTED.items():
        if int(os.environ.get(variable) or 1) > 1 and kvstore in ("device", "local"):
            raise UserError(f"{variable} is {os.environ[variable]}, but --kvstore {kvstore} sums on this machine "
                            f"alone; add --kvstore {needed}")
    if kvstore in ("device", "local"):
        workers = Alone(kvstore)
    else:
        workers = Horovod() if kvstore == "horovod" else ParameterServer(kvstore)
    try:
        yield workers
    except BaseException as error:
        workers.leave()
        if isinstance(error, mx.MXNetError) and "Horovod has been shut down" in str(error):
            raise UserError(f"worker {workers.rank}: another worker has ended, and with it Horovod") from error
        raise
