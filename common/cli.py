"""What every command shares: a parser and a `run` whose errors are one line and exit code 2."""
import argparse
import os
import sys
import traceback

from common.errors import UserError

_LONGEST = 900  # letters of a line of error


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Says the default of a flag where there is one to tell, and keeps the lines of the description."""

    def _get_help_string(self, action):
        told = action.default not in (None, "") and not isinstance(action.default, bool)
        return super()._get_help_string(action) if told else action.help


class ArgumentParser(argparse.ArgumentParser):
    """argparse with defaults in the help and a bad flag answered in one line."""

    def __init__(self, **settings):
        settings.setdefault("formatter_class", _Formatter)
        settings.setdefault("allow_abbrev", False)
        super().__init__(**settings)

    def error(self, message):
        self.exit(2, _line(f"error: {message} (see {self.prog} --help)") + "\n")


def _line(text):
    """Text as one line that a terminal can show: a name may hold a line's end, or what moves the cursor."""
    line = " ".join(text.splitlines())
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


def run(main):
    """Run `main` as a command and exit: 0, its own code, 2 with one line for a UserError and for what the system
    refuses, 130 for Ctrl-C."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # whatever bytes the name of a file is made of
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as head, has seen enough
        code = 141  # as a shell says it
    except UserError as error:
        code = _fail(error, str(error))
    except OSError as error:  # what no function expected, and the standard output, which has no name
        code = _fail(error, f"{error.filename or 'the system cannot read or write'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = 130
    _flush()
    sys.exit(code)


def _fail(error, text):
    while error is not None:  # bars that generators hold open end here, so that the error gets a line of its own
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
    print(_line(f"error: {text}"), file=sys.stderr)
    return 2


def _flush():
    """What cannot be written any more is dropped, for the interpreter would complain of it once more."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
