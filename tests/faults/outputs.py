"""Outputs that cannot be written: places that are no place, and disks that are full."""
import re

SIZES = (0, 60, 700, 4000)  # bytes of the largest file that can be written, as if the disk were full then
PLACES = {  # what stands in place of the output -> its name
    "in a file": "blocked/outdir", "in /proc": "/proc/outdir", "a full device": "/dev/full",
    "a long name": "outdir" + "n" * 300,
    "a file in its place": "outdir", "a folder with a file in its place": "outdir"}
REPLACED = "a file that is there is replaced, as the command's help says"
ADDED = "a folder may hold other files"


def output_cases(command):
    """(name, words, prepare, limits, accepted) of each fault of a command's output."""
    for name, place in PLACES.items():
        if re.search(r"\boutdir\b", command.words):
            yield (name, place, re.sub(r"\boutdir\b", place, command.words), _prepare(name), {},
                   {"a file in its place": REPLACED, "a folder with a file in its place": ADDED}.get(name))
    for size in SIZES if command.output else ():
        yield f"a disk full after {size} bytes", "", command.words, None, dict(file_size=size), "no file is larger"
    yield "standard output is full", "", command.words, None, dict(stdout="/dev/full"), None


def _prepare(name):
    def prepare(box):
        if name == "in a file":
            (box / "blocked").write_text("text")
        elif name == "a file in its place":
            (box / "outdir").write_text("text")
        elif name.startswith("a folder"):
            (box / "outdir").mkdir()
            (box / "outdir" / "other").write_text("text")
    return prepare
