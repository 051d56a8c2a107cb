"""Lists of pairs, and the verification packs made of them."""
import os
import re
from collections import namedtuple
from pathlib import Path

from tqdm import tqdm

from common.errors import DataError
from common.files import read_text
from datasets.images import check_shape, decode_bgr, read_image
from datasets.packs import write_pack
from datasets.threads import in_order

Pair = namedtuple("Pair", "first second same")  # two paths, and whether they show the same identity


def read_pairs(path, root):
    """Read a list with lines `path1 path2 0|1`, paths relative to `root`; 1: same identity.

    Fields are parted by tabs where a line has any, else by blanks. Returns a list of Pair.
    Raises DataError, with the line, for anything else.
    """
    pairs = []
    for line, fields in read_lines(path):
        if len(fields) != 3 or fields[2] not in ("0", "1"):
            raise bad_line(path, line, fields, "'path1 path2 0|1'")
        pairs.append(Pair(Path(root, fields[0]), Path(root, fields[1]), fields[2] == "1"))
    if not pairs:
        raise DataError(f"{path}: no pairs")
    return pairs


def read_lfw_pairs(path, data_dir):
    """Read LFW's pairs.txt: `name i j` for genuine and `name1 i name2 j` for impostor pairs.

    The header, `folds pairs` or `pairs`, counts the genuine pairs of a fold, and as many impostor pairs; it is checked
    where there is one. Images are <data_dir>/images/<name>/<name>_%04d.jpg or .png, or the same without images/.
    Returns a list of Pair in the order of the file, on which the folds depend. Raises DataError, with the line.
    """
    lines = list(read_lines(path))
    expected = None
    if lines and len(lines[0][1]) < 3:
        line, header = lines.pop(0)
        if not all(is_number(field) for field in header):
            raise bad_line(path, line, header, "'folds pairs', such as '10 300'")
        folds, pairs = [1, *map(int, header)][-2:]
        expected = 2 * folds * pairs
    found = [_lfw_pair(path, line, fields, data_dir) for line, fields in lines]
    if expected is not None and len(found) != expected:
        raise DataError(f"{path}: {len(found)} pairs; its first line announces {expected}")
    if not found:
        raise DataError(f"{path}: no pairs")
    return found


def _lfw_pair(path, line, fields, data_dir):
    if len(fields) not in (3, 4) or not is_number(fields[1]) or not is_number(fields[-1]):
        raise bad_line(path, line, fields, "'name i j' or 'name1 i name2 j'")
    names = [fields[0], fields[-2] if len(fields) == 4 else fields[0]]
    numbers = [fields[1], fields[-1]]
    first, second = (_lfw_image(data_dir, name, int(number)) for name, number in zip(names, numbers))
    return Pair(first, second, len(fields) == 3)


def _lfw_image(data_dir, name, number):
    return find_image(data_dir, f"{name}/{name}_{number:04d}.jpg")


def find_image(data_dir, name):
    """The image <data_dir>/images/<name> or <data_dir>/<name>, or the same as .jpg or .png: the first that is there.

    Where none is, the first of these paths; images/ is not looked into where there is no such folder.
    """
    paths = [Path(data_dir, name)]
    if Path(data_dir, "images").is_dir():
        paths.insert(0, Path(data_dir, "images", name))
    for path in paths:
        stem = os.path.splitext(str(path))[0]
        for candidate in (str(path), f"{stem}.jpg", f"{stem}.png"):
            if os.path.isfile(candidate):  # no such file, too, for a name that is none
                return Path(candidate)
    return paths[0]


def read_lines(path):
    """(line number, fields) of every line of a list that is not blank; fields are parted by tabs, else by blanks."""
    for line, content in enumerate(read_text(path).splitlines(), 1):
        if content.strip():
            fields = content.strip().split("\t") if "\t" in content.strip() else content.split()
            yield line, [field.strip() for field in fields]


def is_number(text):
    """Whether a field is a whole number, of a plausible length and not negative."""
    return re.fullmatch("[0-9]{1,9}", text) is not None


def bad_line(path, line, fields, expected):
    """The error for a line of a list that is not as expected."""
    return DataError(f"{path} line {line}: found {' '.join(fields)[:80]!r}; expected {expected}")


def pack_pairs(pairs, output, image_shape=(112, 112), progress=True):
    """Write a verification pack of a list of Pair; images go in byte by byte, read and checked by all cores.

    image_shape: (height, width) that every image must have. progress: show a bar.
    Raises DataError for no pairs, for images that are missing (all counted, the first few named), cannot be decoded or
    are of another size; nothing is written then.
    """
    paths = list(dict.fromkeys(path for pair in pairs for path in pair[:2]))
    if not paths:
        raise DataError(f"{output}: no pairs to write a verification pack of")
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise DataError(describe_missing(missing, len(paths)))
    read = in_order(lambda path: read_checked(path, image_shape), paths)
    images = dict(zip(paths, tqdm(read, total=len(paths), unit="image", disable=not progress)))
    write_pack(output, [images[path] for pair in pairs for path in pair[:2]], [pair.same for pair in pairs])


def describe_missing(missing, total, what="images"):
    """How many of `total` are missing, and the first few names."""
    return (f"{len(missing)} of {total} {what} are missing: {', '.join(map(str, missing[:5]))}"
            + (", ..." if len(missing) > 5 else ""))


def read_checked(path, image_shape):
    """The bytes of an image file. Raises DataError where it cannot be decoded or is not of image_shape."""
    data = read_image(path)
    check_shape(decode_bgr(data, path), image_shape, path)
    return data


def describe_pairs(pairs, nfolds=10):
    """One line on what was packed, folds included: for verification cuts the list into parts as it stands.

    Genuine pairs that are not spread evenly over the list make folds that cannot be compared; the line shows it.
    """
    genuine = sum(pair.same for pair in pairs)
    folds = [pairs[len(pairs) * i // nfolds:len(pairs) * (i + 1) // nfolds] for i in range(nfolds)]
    counts = [sum(pair.same for pair in fold) for fold in folds]
    return (f"{len(pairs)} pairs, {genuine} genuine and {len(pairs) - genuine} impostor; "
            f"genuine pairs in each of {nfolds} folds: {min(counts)} to {max(counts)}")
