"""Can this Python run the project? Run before anything is installed, by any Python 3: one line, exit code 2 if not."""
import ctypes
import importlib
import sys

LIBRARIES = {"libgomp.so.1": "libgomp1", "libquadmath.so.0": "libquadmath0", "libstdc++.so.6": "libstdc++6"}


def problem():
    """What is in the way and what to do about it, as one line; None where nothing is."""
    found = "{}.{}".format(*sys.version_info[:2])
    if not (3, 8) <= sys.version_info[:2] <= (3, 12):
        return ("Python {} ({}) found, MXNet 1.9.1 needs 3.8 to 3.12: install one, for instance python3.11, and name "
                "it: make demo PYTHON=python3.11".format(found, sys.executable))
    for module in ("venv", "ensurepip"):
        try:
            importlib.import_module(module)
        except ImportError:
            return "Python {} lacks the module {}: apt-get install python{}-venv".format(found, module, found)
    if sys.platform.startswith("linux"):
        missing = [package for library, package in LIBRARIES.items() if not _loads(library)]
        if missing:
            return "MXNet needs system libraries that are missing: apt-get install {}".format(" ".join(missing))
    return None


def _loads(library):
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    line = problem()
    if line:
        sys.exit(sys.stderr.write("error: {}\n".format(line)) and 2)
