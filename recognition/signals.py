"""SIGINT and SIGTERM: the first asks a training to stop where nothing is lost, the second ends the process at once."""
import os
import signal
import socket
import sys
import threading

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A training was asked to stop, and has come to a place where it can."""


class StopSignals:
    """A context in which the first SIGINT or SIGTERM only sets `received` and says so; a second one exits at once.

    Attribute: `received`, the signal's number, or None.
    A thread waits for them, since Python itself sees a signal no sooner than a call of MXNet's returns, which in a
    training that hangs is never. Signals that are ignored stay so; outside of the main thread nothing is changed.
    """

    def __init__(self):
        self.received = self._thread = None

    def __call__(self):
        """Whether the training shall stop."""
        return self.received is not None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            self._wakeup, self._theirs = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False), theirs
            self._before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS
                            if signal.getsignal(number) is not signal.SIG_IGN}
            self._thread = threading.Thread(target=self._wait, name="stop-signals", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_):
        if self._thread:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup)
            self._theirs.close()
            self._thread.join()
            self._ours.close()

    def _wait(self):
        while True:
            numbers = self._ours.recv(1)
            if not numbers:
                return
            if numbers[0] not in self._before:
                continue
            if self.received is not None:
                os._exit(128 + numbers[0])
            self.received = numbers[0]
            print(f"{signal.Signals(self.received).name}: stopping after this step; a second one exits at once",
                  file=sys.stderr, flush=True)

    def end(self):
        """End a command that was stopped so: raises KeyboardInterrupt for SIGINT, SystemExit(143) for SIGTERM."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + (self.received or signal.SIGTERM))  # or the signal was another worker's
