"""The page for users of the original names commands and flags that exist."""
import importlib
import re

import pytest

from benchmarks.readme import ROOT
from common.cli import ArgumentParser

PAGE = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")


class _Caught(Exception):
    """Carries a parser out of a command's parse_args."""


def _flags_of(command, *arguments):
    """All flags of a command, those of its sub-commands among them."""
    module = importlib.import_module(command[:-3].replace("/", "."))

    def catch(parser, args=None, namespace=None):
        raise _Caught(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArgumentParser, "parse_args", catch)
        patch.setattr("sys.argv", [command, *arguments])
        try:
            getattr(module, "parse_args", module.main)()
        except _Caught as caught:
            return _options(caught.args[0])
    raise AssertionError(f"{command}: parses nothing")


def _options(parser):
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action.choices, dict):
            found.update(*map(_options, action.choices.values()))
    return found


def _all_flags(command):
    if command != "recognition/train.py":
        return _flags_of(command)
    from recognition import heads, pair_losses

    losses = [("--loss", loss) for loss in [*heads.LOSSES, *pair_losses.LOSSES]]
    return set().union(*(_flags_of(command, *more) for more in [*losses, ("--network", "y1"), ("--network", "d169"),
                                                                ("--network", "m1")]))


def _named():
    """Command and flag of each that the page names as ours."""
    command = None
    for line in PAGE.splitlines():
        heading = re.fullmatch(r"## (?:`(.+\.py)`|.*)", line)
        command = heading[1] if heading else command
        cells = re.split(r"(?<!\\)\|", line)
        if len(cells) != 5 or cells[1].strip() in ("original", "---"):
            continue
        for span in re.findall(r"`([^`]+)`", cells[2]):
            words = span.split()
            named = words.pop(0) if words[0].endswith(".py") else command
            yield from ((named, word) for word in words or [""] if word.startswith("--") or not word)


def test_every_flag_exists():
    wanted = {}
    for command, flag in _named():
        wanted.setdefault(command, set()).add(flag)
    assert len(wanted) > 15 and sum(map(len, wanted.values())) > 120
    missing = {command: sorted(flags - {""} - _all_flags(command)) for command, flags in wanted.items()}
    assert {command: flags for command, flags in missing.items() if flags} == {}
