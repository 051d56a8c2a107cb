"""Lists of pairs, and the verification packs made of them."""
from collections import namedtuple
from pathlib import Path

from tqdm import tqdm

from common.errors import DataError
from common.files import read_bytes
from datasets.images import check_shape, decode_bgr, read_image
from datasets.packs import write_pack

Pair = namedtuple("Pair", "first second same")  # two paths, and whether they show the same identity


def read_pairs(path, root):
    """Read a list with lines `path1 path2 0|1`, paths relative to `root`; 1: same identity.

    Fields are parted by tabs where a line has any, else by blanks. Returns a list of Pair.
    Raises DataError, with the line, for anything else.
    """
    pairs = []
    for line, fields in _lines(path):
        if len(fields) != 3 or fields[2] not in ("0", "1"):
            raise _bad_line(path, line, fields, "'path1 path2 0|1'")
        pairs.append(Pair(Path(root, fields[0]), Path(root, fields[1]), fields[2] == "1"))
    return pairs


def read_lfw_pairs(path, data_dir):
    """Read LFW's pairs.txt: `name i j` for genuine and `name1 i name2 j` for impostor pairs.

    The header, `folds pairs` or `pairs`, counts the genuine pairs of a fold, and as many impostor pairs; it is checked
    where there is one. Images are <data_dir>/images/<name>/<name>_%04d.jpg or .png, or the same without images/.
    Returns a list of Pair in the order of the file, on which the folds depend. Raises DataError, with the line.
    """
    lines = list(_lines(path))
    expected = None
    if lines and len(lines[0][1]) < 3:
        line, header = lines.pop(0)
        if not all(field.isdecimal() for field in header):
            raise _bad_line(path, line, header, "'folds pairs', such as '10 300'")
        folds, pairs = [1, *map(int, header)][-2:]
        expected = 2 * folds * pairs
    found = [_lfw_pair(path, line, fields, data_dir) for line, fields in lines]
    if expected is not None and len(found) != expected:
        raise DataError(f"{path}: {len(found)} pairs; its first line announces {expected}")
    return found


def _lfw_pair(path, line, fields, data_dir):
    names = [fields[0], fields[-2] if len(fields) == 4 else fields[0]]
    numbers = [fields[1], fields[-1]]
    if len(fields) not in (3, 4) or not all(number.isdecimal() for number in numbers):
        raise _bad_line(path, line, fields, "'name i j' or 'name1 i name2 j'")
    first, second = (_lfw_image(data_dir, name, int(number)) for name, number in zip(names, numbers))
    return Pair(first, second, len(fields) == 3)


def _lfw_image(data_dir, name, number):
    stems = [Path(data_dir, *folder, name, f"{name}_{number:04d}") for folder in (["images"], [])]
    candidates = [stem.with_name(stem.name + suffix) for stem in stems for suffix in (".jpg", ".png")]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _lines(path):
    """(line number, fields) of every line that is not blank."""
    text = read_bytes(path).decode("utf-8", "backslashreplace")
    for line, content in enumerate(text.splitlines(), 1):
        if content.strip():
            fields = content.strip().split("\t") if "\t" in content.strip() else content.split()
            yield line, [field.strip() for field in fields]


def _bad_line(path, line, fields, expected):
    return DataError(f"{path} line {line}: found {' '.join(fields)[:80]!r}; expected {expected}")


def pack_pairs(pairs, output, image_shape=(112, 112), progress=True):
    """Write a verification pack of a list of Pair; images go in byte by byte.

    image_shape: (height, width) that every image must have. progress: show a bar.
    Raises DataError for no pairs, for images that are missing (all counted, the first few named), cannot be decoded or
    are of another size; nothing is written then.
    """
    paths = list(dict.fromkeys(path for pair in pairs for path in pair[:2]))
    if not paths:
        raise DataError(f"{output}: no pairs to write a verification pack of")
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(paths)} images are missing: {', '.join(missing[:5])}"
                        + (", ..." if len(missing) > 5 else ""))
    images = {path: _read_image(path, image_shape) for path in tqdm(paths, unit="image", disable=not progress)}
    write_pack(output, [images[path] for pair in pairs for path in pair[:2]], [pair.same for pair in pairs])


def _read_image(path, image_shape):
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
