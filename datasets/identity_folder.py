"""A folder with a sub-folder of images for each identity, made into a training set."""
from collections import namedtuple
from contextlib import closing
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from common.errors import DataError, UserError
from common.files import write_text
from datasets.images import SUFFIXES, UnreadableImage, read_image, to_jpeg
from datasets.threads import in_order
from datasets.training_set import write_training_set

Summary = namedtuple("Summary", "identities skipped left_out")
Summary.__doc__ = """What was made of a folder.

identities: list of (folder name, number of images), in the order of their class labels; skipped: one message for each
unreadable image; left_out: names of the identities with too few images.
"""


def list_identities(folder):
    """The identities of a folder: a list of (name, list of image paths), both sorted. Sub-folders without an image and
    hidden ones are not listed. Raises DataError where there is none at all."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found = [(path.name, sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES))
             for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    identities = [(name, files) for name, files in found if files]
    if not identities:
        raise DataError(f"{folder}: no images; expected a sub-folder for each identity, with {', '.join(SUFFIXES)}")
    return identities


def pack_folder(folder, output, image_shape=(112, 112), quality=95, resize=False, skip_bad=False, min_images=1,
                progress=True):
    """Write a training set of a folder of identities, and identities.txt (class label, name, images) beside it.

    folder: as `list_identities` takes it; output: a folder. image_shape: (height, width); a JPEG of this size is taken
    over byte by byte, other formats are encoded anew with `quality` (1 to 100), other sizes with `resize` alone.
    skip_bad: leave out what cannot be read or decoded. min_images: leave out identities with fewer.
    progress: show a bar. Returns a Summary. Raises DataError for an image that cannot be used, UserError when no
    identity is left.
    """
    if not 1 <= quality <= 100:
        raise UserError(f"quality {quality}; expected 1 to 100")
    identities = list_identities(folder)
    summary = Summary([], [], [])
    files = [path for _, paths in identities for path in paths]

    def read(path):
        try:
            return to_jpeg(read_image(path), image_shape, path, quality, resize)
        except UnreadableImage as error:
            if not skip_bad:
                raise
            return error

    with closing(in_order(read, files)) as images:
        shown = iter(tqdm(images, total=len(files), unit="image", disable=not progress))
        write_training_set(output, _usable(identities, shown, min_images, summary), image_shape)
    write_text(Path(output, "identities.txt"), "".join(
        f"{label}\t{name}\t{count}\n" for label, (name, count) in enumerate(summary.identities)))
    return summary


def _usable(identities, images, min_images, summary):
    """The images of each identity that has enough of them, noted in `summary`.

    images: of all identities, one after the other, as bytes, or as the error that an image is skipped for.
    """
    for name, files in identities:
        found = list(islice(images, len(files)))
        summary.skipped.extend(str(image) for image in found if isinstance(image, UnreadableImage))
        good = [image for image in found if not isinstance(image, UnreadableImage)]
        if len(good) < max(1, min_images):
            summary.left_out.append(name)
            continue
        summary.identities.append((name, len(good)))
        yield good
