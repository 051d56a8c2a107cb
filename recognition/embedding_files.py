"""Embeddings of many pictures as a .npy file, with a CSV file beside it that says what each row is of."""
import csv
from contextlib import ExitStack
from pathlib import Path
from typing import List, NamedTuple

import numpy as np

from common.errors import DataError, UserError
from common.files import replacing

SHOWN = 10  # pictures that are left out, told of one by one
_COLUMNS = ("row", "image", "label", "problem")


class Written(NamedTuple):
    """What was written. rows, dimensions: of the array; left_out: how many pictures have no row; problems: of the first
    of them; listed: path of the CSV file."""

    rows: int
    dimensions: int
    left_out: int
    problems: List[str]
    listed: Path


def write_embeddings(path, recogniser, pictures, raw=False, progress=True):
    """Embed pictures into a file, of which only the rows at hand are in memory.

    path: ends in .npy, gets (N, D) float32, L2-normalised unless `raw`; beside it a .csv of all pictures in order: row,
    image, label, problem; a picture that cannot be used has no row. recogniser: see `Recogniser.embed_all`; pictures:
    see `recognition.pictures`. Returns a Written.
    Raises UserError where it cannot be written, DataError where no picture can be used: then nothing is.
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise UserError(f"{path}: expected a name that ends in .npy")
    rows, problems, left_out, listed = 0, [], 0, path.with_suffix(".csv")
    with ExitStack() as stack:
        table = csv.writer(_open(stack, listed, "w", encoding="utf-8", errors="surrogateescape", newline=""),
                           lineterminator="\n")
        table.writerow(_COLUMNS)
        file = _open(stack, path, "wb")
        _write_header(file, len(pictures), recogniser.emb_size)
        for found in recogniser.embed_all(pictures, raw=raw, progress=progress):
            table.writerow(("" if found.problem else rows, found.name, found.label, found.problem))
            file.write(found.embeddings.astype("<f4").tobytes())
            rows += len(found.embeddings)
            if found.problem:
                left_out += 1
                if left_out <= SHOWN:
                    problems.append(found.problem)
        if not rows:
            raise DataError(f"none of {left_out} pictures can be used; the first: {problems[0]}")
        file.seek(0)
        _write_header(file, rows, recogniser.emb_size)
    return Written(rows, recogniser.emb_size, left_out, problems, listed)


def _open(stack, path, mode, **how):
    """Open a file to be moved to `path` when the stack ends well."""
    return stack.enter_context(open(stack.enter_context(replacing(path)), mode, **how))


def _write_header(file, rows, dimensions):
    """The header of the array; for any number of rows it takes 128 bytes, so that it can be written anew at the end."""
    np.lib.format.write_array_header_1_0(file, dict(descr="<f4", fortran_order=False, shape=(rows, dimensions)))
