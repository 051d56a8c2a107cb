"""What all training sets on disk have in common: images by position, whichever files hold them."""
import numpy as np
from tqdm import tqdm

from common.errors import DataError, UserError


class LabelError(DataError):
    """A label that is no class: damage that no other image can stand in for, for all labels may be wrong."""


class ImageSet:
    """Labelled images by position; any number of threads may read.

    Attributes: folder; path, of the one file that holds the images, else the folder; num_classes and image_shape
    (height, width) from `property`; num_identities, the number of identity records (None where the set has none);
    numbers, (len,) int64, the record number of every image.
    A subclass sets them, and: _readers, a RecordReader for each file; _offsets, (len,) int64, where records begin;
    _sizes, (len,) int32, bytes to the record behind, or to the end; _files, (len,) integers, which reader has them, or
    None for the first; _identities, (len,) integers, or None.
    """

    _files = _identities = num_identities = None

    def __len__(self):
        return len(self.numbers)

    def close(self):
        """Close the files."""
        for reader in self._readers:
            reader.close()

    def where(self, i):
        """What messages call image i: file and record number."""
        return f"{self._reader_of(i).path} record {self.numbers[i]}"

    def read(self, i):
        """Read image i, 0 <= i < len. Returns (encoded image: bytes, class label: int in [0, num_classes)).

        Raises DataError, with the record number, for a damaged record, LabelError for a label that is no class.
        """
        label, image = self._reader_of(i).read_image(self._offsets.item(i), self.numbers[i], self._sizes.item(i))
        if not image:
            raise DataError(f"{self.where(i)}: holds no image")
        return image, self._class(i, label)

    def label(self, i):
        """The class label of image i, which is not read. Raises DataError as `read` does."""
        return self._class(i, self._reader_of(i).read_label(self._offsets[i], self.numbers[i]))

    def _class(self, i, label):
        if not (0 <= label < self.num_classes and label == int(label)):
            raise LabelError(f"{self.where(i)}: label {label:.9g}; expected a whole number in [0, {self.num_classes}), "
                            f"for `property` says {self.num_classes} classes")
        return int(label)

    def labels(self, progress=True):
        """The class of every image, (len,) int64, without reading the images.

        progress: show a bar; None: in a terminal only. Raises DataError for a damaged record.
        """
        with tqdm(range(len(self)), unit="image", desc="labels",
                  disable=None if progress is None else not progress) as rows:
            return np.fromiter((self.label(row) for row in rows), np.int64, len(self))

    def identities(self):
        """Which identity each image is of, (len,) integers, numbered from 0.

        From the identity records; where the set has none (or too many images for them), from the label of every image,
        under a bar.
        """
        if self._identities is None:
            self._identities = np.unique(self.labels(progress=None), return_inverse=True)[1]
        return self._identities

    def shuffled(self, random):
        """The images' positions in random order, (len,) int64; random: RandomState."""
        return random.permutation(len(self))

    def _reader_of(self, i):
        return self._readers[0 if self._files is None else self._files[i]]

    def _keep_identities(self, min_images):
        """Leave out identities with fewer images than this. Raises UserError where none is left."""
        if min_images < 2:
            return
        identities = self.identities()
        sizes = np.bincount(identities)
        kept = sizes[identities] >= min_images
        if not kept.any():
            raise UserError(f"{self.path}: no identity has {min_images} images; the largest has {sizes.max()}")
        self.numbers, self._offsets, self._sizes = (column[kept] for column in (self.numbers, self._offsets,
                                                                                self._sizes))
        self._identities = identities[kept]
        if self._files is not None:
            self._files = self._files[kept]
