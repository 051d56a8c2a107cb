"""What opening and shuffling cost by the number of images: seconds, and bytes of memory for each image.

    python benchmarks/scale.py

Writes results/scale.csv. The training sets are made up: records without pixels, 20 images of an identity, which opening
and shuffling do not notice, for they read no image. Each is measured in a process of its own.
"""
import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from common.cli import ArgumentParser, run
from common.errors import UserError

PER_IDENTITY = 20


def write_set(folder, num_images):
    """Write a set of so many empty images, a block of records at a time."""
    from datasets.recordio import frame_record, pack_record
    identities = num_images // PER_IDENTITY
    image, header = (frame_record(pack_record(0, label, payload)) for label, payload in ((0, b"0000"), ((0, 0), b"")))
    with open(folder / "train.rec", "wb") as rec, open(folder / "train.idx", "w") as idx:
        for start in range(1, num_images + 1, PER_IDENTITY):
            rec.write(image * PER_IDENTITY)
            idx.writelines(f"{number}\t{len(image) * (number - 1)}\n" for number in range(start, start + PER_IDENTITY))
        offset = num_images * len(image)
        for row in range(identities + 1):  # the last one is record 0, with the range of the others
            number, bounds = num_images + 1 + row, (1 + row * PER_IDENTITY, 1 + (row + 1) * PER_IDENTITY)
            if row == identities:
                number, bounds = 0, (num_images + 1, num_images + 1 + identities)
            rec.write(header[:-8] + np.array(bounds, "<f4").tobytes())
            idx.write(f"{number}\t{offset + row * len(header)}\n")
    (folder / "property").write_text(f"{identities},112,112\n")


def one(num_images):
    """Measure in this process; prints [seconds to open, seconds to shuffle, most bytes while opening, bytes after]."""
    from datasets.training_set import TrainingSet

    def read():
        times = [time.perf_counter()]
        images = TrainingSet(place)
        times.append(time.perf_counter())
        order = images.shuffled(np.random.RandomState(0))
        if len(order) != num_images:
            raise UserError(f"{len(order)} images read; expected {num_images}")
        return (*np.diff(times + [time.perf_counter()]), images, order)

    with tempfile.TemporaryDirectory() as place:
        write_set(Path(place), num_images)
        opening, shuffling, *_ = read()
        tracemalloc.start()  # once more: being watched, Python is slower
        kept = read()
        now, most = tracemalloc.get_traced_memory()
        del kept
    print(json.dumps([opening, shuffling, most, now]))


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1000000,10000000", help="numbers of images with commas between, multiples "
                        f"of {PER_IDENTITY}")
    parser.add_argument("--one", type=int, help="for the command's own use: measure in this process")
    return parser.parse_args()


def main():
    args = parse_args()
    if args.one:
        return one(args.one)
    from benchmarks.measure import write_table
    from common.machine import machine

    rows = []
    for size in map(int, args.sizes.split(",")):
        done = subprocess.run([sys.executable, __file__, "--one", str(size)], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise UserError(f"measuring {size} images failed, see above")
        opening, shuffling, most, after = json.loads(done.stdout)
        rows.append(dict(images=size, identities=size // PER_IDENTITY, seconds_to_open=f"{opening:.2f}",
                         seconds_to_shuffle=f"{shuffling:.2f}", bytes_per_image_opening=f"{most / size:.0f}",
                         bytes_per_image_after=f"{after / size:.0f}", machine=machine()))
    print(write_table("scale", rows))


if __name__ == "__main__":
    run(main)
