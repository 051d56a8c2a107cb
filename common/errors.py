"""The errors a user can cause. A command turns them into one line and exit code 2 (see `common.cli`)."""


class UserError(Exception):
    """Something only the user can mend. The message says what was found, what was expected, where, what to do."""


class DataError(UserError):
    """A file does not hold what it should. The message names the file and, where there is one, the record number."""


def unknown_name(kind, name, known):
    """The error for a name that is in no table: it lists the known ones.

    kind: what the name is of, for instance 'network'; known: an iterable of str.
    """
    return UserError(f"unknown {kind} {name!r}; known are: {', '.join(sorted(known))}")
