"""How fast images are read, beside the original's loop, MXNet's own reader, and OpenCV's decoder alone.

    python benchmarks/reader.py                                       # rendered faces
    FACE_DATA=../shared/data python benchmarks/reader.py --data celeba

Writes results/reader.csv and results/pack_reading.csv. Every peer has a process of its own; they take turns, round by
round, and the best round of each counts. Readers, all of uint8 batches of 128 shuffled, mirrored images:
  decoder         cv2.imdecode on bytes in memory, a thread for each core: the limit
  ours            datasets.image_iter.ImageIter on train.rec; with colour: colour jitter as well
  ours, shards    the same on shards (datasets/rec2shufrec.py)
  ImageRecordIter MXNet's own reader, a thread for each core, on a shard (identity records end it with an error)
  original        MXNet's imdecode, flip and transpose, image by image in Python; with one OpenMP thread, its best
Packs: from the file to all images decoded in batches of 64, seconds and megabytes taken; the original decodes them all
into two float32 arrays, plain and mirrored, before it begins.
"""
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.commands import prepare_faces
from common.cli import ArgumentParser, run
from common.errors import UserError
from common.flags import positive

BATCH_SIZE = 128
_ENVIRONMENT = dict(os.environ)


def decoder(folder, _):
    """Yield numbers of images that OpenCV has decoded."""
    from concurrent.futures import ThreadPoolExecutor

    import cv2
    import numpy as np

    from common.cores import cpu_count
    from datasets.training_set import TrainingSet

    images = TrainingSet(folder / "set")
    encoded = [np.frombuffer(images.read(i)[0], np.uint8) for i in range(len(images))]
    cv2.setNumThreads(1)

    def decode(part):
        for image in part:
            cv2.imdecode(image, cv2.IMREAD_COLOR)
        return len(part)

    with ThreadPoolExecutor(cpu_count()) as pool:
        while True:
            yield from pool.map(decode, [encoded[start:start + BATCH_SIZE]
                                         for start in range(0, len(encoded), BATCH_SIZE)])


def ours(folder, name):
    """Yield the sizes of our batches."""
    from datasets.image_iter import ImageIter
    from datasets.shards import open_images

    images = open_images(folder / ("shards" if "shards" in name else "set"))
    batches = ImageIter(images, BATCH_SIZE, color=int("colour" in name))
    while True:
        for batch in batches:
            batch.data[0].wait_to_read()
            yield BATCH_SIZE
        batches.reset()


def image_record_iter(folder, _):
    """Yield the sizes of ImageRecordIter's batches."""
    from common.cores import cpu_count
    from common.mxnet_setup import mx

    shard, = (folder / "shards").glob("*.rec")
    batches = mx.io.ImageRecordIter(
        path_imgrec=str(shard), path_imgidx=str(shard.with_suffix(".idx")), data_shape=(3, 112, 112), dtype="uint8",
        batch_size=BATCH_SIZE, shuffle=True, rand_mirror=True, preprocess_threads=cpu_count())
    while True:
        for batch in batches:
            batch.data[0].wait_to_read()
            yield BATCH_SIZE
        batches.reset()


def original(folder, _):
    """Yield the sizes of batches that are made as the original's Python iterator makes them."""
    import random

    from common.mxnet_setup import mx
    from datasets.training_set import TrainingSet

    numbers = TrainingSet(folder / "set").numbers.tolist()
    records = mx.recordio.MXIndexedRecordIO(str(folder / "set/train.idx"), str(folder / "set/train.rec"), "r")
    while True:
        random.shuffle(numbers)
        for start in range(0, len(numbers) - BATCH_SIZE, BATCH_SIZE):
            data, label = mx.nd.empty((BATCH_SIZE, 3, 112, 112)), mx.nd.empty((BATCH_SIZE,))
            for row, number in enumerate(numbers[start:start + BATCH_SIZE]):
                header, encoded = mx.recordio.unpack(records.read_idx(number))
                image = mx.image.imdecode(encoded)
                if random.random() < 0.5:
                    image = mx.nd.flip(image, axis=1)
                data[row][:] = mx.nd.transpose(image, axes=(2, 0, 1))
                label[row] = header.label
            data.wait_to_read()
            yield BATCH_SIZE


READERS = {"decoder": (decoder, {}), "ours": (ours, {}), "ours, colour": (ours, {}), "ours, shards": (ours, {}),
           "ImageRecordIter": (image_record_iter, {}), "original": (original, {"OMP_NUM_THREADS": "1"})}


def our_pack(path):
    """Decode a pack batch by batch; returns its images."""
    from datasets.packs import load_pack

    pack = load_pack(path)
    for start in range(0, len(pack.images), 64):
        pack.decode(start, start + 64)
    return len(pack.images)


def original_pack(path):
    """Decode a pack as the original does; returns its images."""
    import pickle

    from common.mxnet_setup import mx

    encoded, _ = pickle.loads(Path(path).read_bytes(), encoding="bytes")
    arrays = [mx.nd.empty((len(encoded), 3, 112, 112)) for _ in range(2)]
    for row, image in enumerate(encoded):
        image = mx.nd.transpose(mx.image.imdecode(image), axes=(2, 0, 1))
        for array, view in zip(arrays, (image, mx.nd.flip(image, axis=2))):
            array[row][:] = view
    mx.nd.waitall()
    return len(encoded)


PACKS = {"ours": (our_pack, {}), "original": (original_pack, {"OMP_NUM_THREADS": "1"})}


def one(kind, name, folder, seconds):
    """Measure one peer in this process; prints what `rounds` reads."""
    from common.mxnet_setup import mx

    function = (READERS if kind == "reader" else PACKS)[name][0]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, images = time.perf_counter(), 0
    if kind == "pack":
        images = function(folder / "pack.bin")
    else:
        batches = function(folder, name)
        sum(islice(batches, 16))  # threads and buffers are there
        started = time.perf_counter()
        while time.perf_counter() < started + seconds:
            images += next(batches)
    mx.nd.waitall()
    taken = time.perf_counter() - started
    print(json.dumps([taken, images, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]), flush=True)
    os._exit(0)  # generators in mid-epoch hold threads


def rounds(kind, peers, folder, count, seconds):
    """For each peer [seconds, images, megabytes] of its fastest round."""
    found = {name: [] for name in peers}
    for _ in range(count):
        for name, (_, environment) in peers.items():
            done = subprocess.run([sys.executable, __file__, "--one", kind, name, folder, str(seconds)],
                                  env={**_ENVIRONMENT, **environment}, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                raise UserError(f"measuring {name} failed, see above")
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {name: min(values, key=lambda value: value[0] / value[1]) for name, values in found.items()}


def prepare(data, folder):
    """Make <folder>/set, <folder>/shards and <folder>/pack.bin. Returns the mean size of a training image in bytes."""
    from datasets.rendered import write_demo
    from datasets.shards import open_images, write_shards

    if data == "rendered":
        write_demo(folder / "set", 200, 25, 4000)
        (folder / "set/rendered.bin").rename(folder / "pack.bin")
    else:
        prepare_faces(folder)
        (folder / "training").rename(folder / "set")
        (folder / "packs/lfw.bin").rename(folder / "pack.bin")
    images = open_images(folder / "set")
    write_shards(images, folder / "shards", 1, progress=False)
    return sum(len(images.read(i)[0]) for i in range(len(images))) / len(images)


def measure(data, count, seconds):
    """The rows of both tables."""
    from common.machine import machine

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        size = prepare(data, folder)
        readers = rounds("reader", READERS, folder, count, seconds)
        packs = rounds("pack", PACKS, folder, count, seconds)
    speed = {name: images / taken for name, (taken, images, _) in readers.items()}
    return [dict(data=data, reader=name, images_per_s=f"{value:.0f}", over_decoder=f"{value / speed['decoder']:.2f}",
                 over_original=f"{value / speed['original']:.2f}", bytes_per_image=f"{size:.0f}", machine=machine())
            for name, value in speed.items()], [
        dict(data=data, reader=name, images=images, seconds=f"{taken:.2f}", megabytes=f"{memory:.0f}",
             machine=machine()) for name, (taken, images, memory) in packs.items()]


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("rendered", "celeba"), default="rendered", help="rendered faces, or the "
                        "real ones of FACE_DATA")
    parser.add_argument("--rounds", type=positive, default=3, help="rounds, of which the best counts")
    parser.add_argument("--seconds", type=float, default=4, help="seconds in which a reader is measured")
    parser.add_argument("--one", nargs=4, metavar=("KIND", "NAME", "FOLDER", "SECONDS"), help="for the command's own "
                        "use: measure one peer in this process")
    return parser.parse_args()


def main():
    args = parse_args()
    if args.one:
        kind, name, folder, seconds = args.one
        return one(kind, name, Path(folder), float(seconds))
    from benchmarks.measure import read_table, write_table

    tables = measure(args.data, args.rounds, args.seconds)
    for name, rows in zip(("reader", "pack_reading"), tables):
        kept = [row for row in read_table(name) if row["data"] != args.data]
        print(write_table(name, kept + rows))


if __name__ == "__main__":
    run(main)
