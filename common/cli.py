"""What every command shares: a parser and a `run` whose errors are one line and exit code 2."""
import argparse
import os
import sys

from common.errors import UserError


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Says the default of a flag where there is one to tell, and keeps the lines of the description."""

    def _get_help_string(self, action):
        told = action.default not in (None, "") and action.default is not False  # 0 is worth telling
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
    return " ".join(text.splitlines())  # a name typed by a user may hold a line's end


def run(main):
    """Run `main` as a command and exit: 0, its own code, 2 with one line for a UserError, 130 for Ctrl-C."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be of any bytes
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141  # as a shell says it
    except UserError as error:
        print(_line(f"error: {error}"), file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = 130
    sys.exit(code)
