"""Small sound inputs for the commands of the table: each call makes files in the current folder."""
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np

SIDE = 16  # of most images, in pixels


def jpeg(seed, side=SIDE):
    """A smooth random picture as a JPEG."""
    coarse = np.random.RandomState(seed).randint(0, 256, (4, 4, 3)).astype(np.uint8)
    return cv2.imencode(".jpg", cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))[1].tobytes()


def write(path, data):
    """Write a file, and its folder first. data: bytes or str."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def training_set(folder="trainset", sizes=(3, 2, 4), side=SIDE, seed=0):
    """A training set whose identities have so many images."""
    from datasets.training_set import write_training_set

    write_training_set(folder, [[jpeg([seed, label, number], side) for number in range(size)]
                                for label, size in enumerate(sizes)], (side, side))


def sealed_set():
    """A training set with checksums."""
    from datasets.examination import examine

    training_set()
    examine("trainset", seal=True, progress=False)


def shard_set(folder="shardset"):
    """A training set in two shards."""
    from datasets.shards import open_images, write_shards

    training_set("whole")
    images = open_images("whole")
    write_shards(images, folder, 2, progress=False)
    images.close()
    shutil.rmtree("whole")


def pack(path="pairs.bin", pairs=20, side=SIDE):
    """A verification pack, every second pair genuine."""
    from datasets.packs import write_pack

    images = [jpeg(number, side) for number in range(2 * pairs)]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_pack(path, images, [number % 2 == 0 for number in range(pairs)])


def sealed_pack():
    """A verification pack of different images with checksums."""
    from datasets.checksums import write_checksums
    from datasets.examine_pack import checksums_path, examine_pack, seal_rows
    from datasets.findings import Findings
    from datasets.packs import write_pack

    write_pack("pairs.bin", [jpeg(number) for number in range(40)], [number % 2 == 0 for number in range(20)])
    found = examine_pack("pairs.bin", Findings(), (SIDE, SIDE), progress=False)
    write_checksums(checksums_path("pairs.bin"), seal_rows(found))


def template_set(folder="videos", side=SIDE):
    """A template set of four videos."""
    training_set(folder, (2, 2, 2, 2), side)
    write(f"{folder}/templates.txt", "".join(f"{number}\tAnn/{number}\n" for number in range(4)))
    write(f"{folder}/pairs.txt", "".join(f"{number % 4} {(number + 1 + number % 3) % 4} {number % 2}\n"
                                         for number in range(20)))


def image_folder(folder="people", sizes=(3, 2, 4), side=SIDE):
    """<folder>/<identity>/<n>.jpg, and one whose name is no UTF-8."""
    for label, size in enumerate(sizes):
        for number in range(size):
            write(f"{folder}/p{label}/{number}.jpg", jpeg([label, number], side))
    write(f"{folder}/p\udcff/\udcfe.jpg", jpeg([9, 9], side))


def model(prefix="net/model", side=SIDE, seed=0, classes=None, epochs=(1,), hashed=False):
    """A checkpoint of a small network with every kind of parameter; with a head of so many classes where given.

    hashed: leave SHA256SUMS beside it. Else it is as a model from elsewhere, of which more damages can be tried.
    """
    from common import checkpoint
    from common.mxnet_setup import mx

    body = (mx.sym.Variable("data") - 127.5) * 0.0078125
    body = mx.sym.Convolution(body, num_filter=4, kernel=(3, 3), stride=(2, 2), pad=(1, 1), name="conv")
    body = mx.sym.LeakyReLU(mx.sym.BatchNorm(body, fix_gamma=False, name="bn"), act_type="prelu", name="relu")
    body = mx.sym.Pooling(body, kernel=(side // 8,) * 2, stride=(side // 8,) * 2, pool_type="avg", name="pool")
    symbol = mx.sym.FullyConnected(body, num_hidden=8, name="fc1")
    rng, shapes = np.random.RandomState(seed), symbol.infer_shape(data=(1, 3, side, side))
    drawn = [{name: mx.nd.array(rng.uniform(0.2, 1, shape) * rng.choice((-1, 1), shape) if kind else np.ones(shape))
              for name, shape in zip(names, found) if name != "data"} for kind, names, found in
             ((1, symbol.list_arguments(), shapes[0]), (0, symbol.list_auxiliary_states(), shapes[2]))]
    if classes:
        drawn[0]["fc7_weight"] = mx.nd.array(rng.standard_normal((classes, 8)))
        label = mx.sym.Variable("softmax_label")
        logits = mx.sym.FullyConnected(symbol, num_hidden=classes, no_bias=True, name="fc7")
        symbol = mx.sym.SoftmaxOutput(logits, label, name="softmax")
    for epoch in epochs:
        checkpoint.save(prefix, epoch, symbol, *drawn)
    mx.nd.waitall()
    if not hashed:
        _remove_hashes(prefix)


def _remove_hashes(prefix):
    Path(prefix).with_name("SHA256SUMS").unlink()


def trained_model(prefix="start/model"):
    """A checkpoint of the network that the table trains."""
    from common import checkpoint
    from common.mxnet_setup import mx
    from symbols import get_symbol

    symbol, rng = get_symbol("y1", net_blocks=(1, 1, 1, 1), emb_size=16), np.random.RandomState(0)
    shapes = symbol.infer_shape(data=(1, 3, 112, 112))
    drawn = [{name: mx.nd.array(rng.uniform(0.5, 1, shape)) for name, shape in zip(names, found) if name != "data"}
             for names, found in ((symbol.list_arguments(), shapes[0]), (symbol.list_auxiliary_states(), shapes[2]))]
    checkpoint.save(prefix, 1, symbol, *drawn)
    mx.nd.waitall()
    _remove_hashes(prefix)


def settings(folder="net"):
    """What a training leaves beside its model."""
    write(f"{folder}/settings.json", json.dumps(dict(network="y1", loss="arcface", dataset="emore"), indent=1))


def train_log(folder="net"):
    """A training's log and settings."""
    settings(folder)
    events = [dict(event="start", time=0.5, step=0, description=["network y1"], trace=dict(commit="abc"))]
    for step in (2, 4):
        events += [dict(event="progress", time=step + 0.5, step=step, epoch=0, samples_per_second=9.5, loss=3.5,
                        accuracy=0.25, lr=0.1),
                   dict(event="verification", time=step + 0.5, step=step, target="lfw", accuracy=0.75,
                        accuracy_std=0.01, xnorm=11.5, eer=0.25),
                   dict(event="checkpoint", time=step + 0.5, step=step, path="net/model-0001.params")]
    write(f"{folder}/train.jsonl", "".join(json.dumps(event) + "\n" for event in events))


def kept_embeddings():
    """What eval/verification.py leaves in its output: embeddings, results, the table of evaluations."""
    from common.devices import get_devices
    from common.embedder import Embedder
    from datasets.packs import load_pack
    from eval.verification import verify

    list(verify(["net/model,1"], [load_pack("pairs.bin", (SIDE, SIDE))], "scores", lambda model: Embedder(
        model, get_devices("cpu"), image_shape=(SIDE, SIDE)), cache="scores/embeddings", progress=False,
        record="scores/evaluations.csv"))


def results(folder="scores"):
    """A results.json with a picture."""
    from eval.results import make_entry, picture, table, write_results

    write(f"{folder}/roc.png", cv2.imencode(".png", np.full((20, 20, 3), 99, np.uint8))[1].tobytes())
    write_results(folder, [make_entry(
        "verification", "lfw", "LFW", dict(accuracy=0.75), [table("Folds", ["fold", "accuracy"], [[1, 0.75]])],
        [picture("roc.png", "the ROC")], dict(date="2020-01-01", commit="abc", model="net/model,1", files={"a": "b"}))])


def embeddings():
    """A training set, a model and what clean.py embed writes."""
    from common.devices import get_devices
    from datasets.embedding_store import embed_set
    from datasets.training_set import TrainingSet

    training_set()
    model()
    embed_set("net/model,1", TrainingSet("trainset"), "embedded", get_devices("cpu"), progress=False)


def half_embeddings():
    """The same, stopped after five images."""
    embeddings()
    state = json.loads(Path("embedded/embedded.json").read_text())
    write("embedded/embedded.json", json.dumps(dict(state, done=5), indent=1))


def features():
    """Lists, noise lists, and features as eval/gen_megaface.py writes them."""
    from eval.features import feature_path, write_feature

    rng = np.random.RandomState(0)
    for kind, entries in _megaface().items():
        for entry in entries:
            vector = rng.standard_normal(8)
            write_feature(feature_path("features", kind, entry, "insightface"), vector / np.linalg.norm(vector))
    write("features/insightface_models.txt", f"{'0' * 64}  net/model,1\n")
    write("features/facescrub_insightface_unreadable.txt", "Bo/1.jpg\n")
    write("facescrub_noises.txt", "# wrong\nBo_x.jpg\nAnn/1.jpg\n")
    write("megaface_noises.txt", "1\t000/1/0.jpg\n")


def _megaface():
    """Entries of both sets; their lists are written."""
    entries = dict(facescrub=[f"{name}/{number}.jpg" for name in ("Ann", "Bo") for number in range(3)],
                   megaface=[f"000/{number}/0.jpg" for number in range(12)])
    for kind, names in entries.items():
        write(f"{kind}_lst", "".join(f"{name}\n" for name in names))
    return entries


def megaface_images():
    """Lists and images of MegaFace."""
    for kind, entries in _megaface().items():
        for number, entry in enumerate(entries):
            write(f"{kind}_images/{entry}", jpeg([len(kind), number]))


def packed_features():
    """Features that eval/megaface.py has packed."""
    from eval.feature_sets import open_features

    features()
    for kind in ("facescrub", "megaface"):
        open_features(kind, f"{kind}_lst", "features", pack="packed", progress=False)


def ijb():
    """IJB-C's lists and images of four subjects, 112 pixels wide, and a model for them."""
    model(side=112)
    points = " ".join(f"{value:.3f}" for value in (38.3, 51.7, 73.5, 51.5, 56.0, 71.7, 41.5, 92.4, 70.7, 92.2))
    ids, landmarks, probes, galleries = [], [], [], ([], [])
    for subject in range(4):
        for template in (10 * subject + 1, 10 * subject + 2):
            (probes if template % 2 == 0 else galleries[subject % 2]).append((template, subject))
            for image in range(2):
                name = f"{template}_{image}.jpg"
                write(f"IJBC/loose_crop/{name}", jpeg([subject, template, image], 112))
                ids.append(f"{name} {template} {1000 + image}")
                landmarks.append(f"{name} {points} 0.9{image}")
    pairs = [f"{first} {second} {int(one == other)}" for first, one in sum(galleries, []) for second, other in probes]
    lists = {"face_tid_mid.txt": ids, "name_5pts_score.txt": landmarks, "template_pair_label.txt": pairs}
    for name, rows in (("gallery_G1", galleries[0]), ("gallery_G2", galleries[1]), ("probe_mixed", probes)):
        lists[f"1N_{name}.csv"] = ["TEMPLATE_ID,SUBJECT_ID"] + [f"{template},{subject}" for template, subject in rows]
    for name, lines in lists.items():
        write(f"IJBC/meta/ijbc_{name}", "".join(f"{line}\n" for line in lines))


def ijb_features():
    """The same, with features computed before."""
    from common.devices import get_devices
    from common.embedder import Embedder
    from datasets.embedding_store import hash_model
    from eval import ijb_features as made
    from eval import ijb_meta

    ijb()
    made.embed_faces(Embedder("net/model,1", get_devices("cpu")), ijb_meta.read_images(".", "IJBC"), "IJBC/loose_crop",
                     "ijb", "ijbc", hash_model("net/model,1"), progress=False)


def photographs():
    """Photographs and where the faces are in them."""
    from datasets.landmarks import COLUMNS

    lines = [",".join(COLUMNS)]
    for number in range(4):
        write(f"photographs/p{number % 2}/{number}.jpg", jpeg(number, 120))
        os.utime(f"photographs/p{number % 2}/{number}.jpg", (1e9, 1e9))  # aligned faces are known by this time
        lines.append(f"p{number % 2}/{number}.jpg,10,10,110,110,40,50,75,50,57,70,42,90,72,90")
    write("landmarks.csv", "".join(f"{line}\n" for line in lines))


def aligned():
    """Photographs of which half are aligned already."""
    from datasets.alignment import align_folder

    photographs()
    align_folder("photographs", "aligned", "landmarks.csv", workers=1, progress=False)
    for path in Path("aligned/p1").iterdir():
        path.unlink()


def mtcnn(folder="mtcnn"):
    """Checkpoints of MTCNN's networks, drawn at random, narrow ones."""
    from common import checkpoint
    from common.mtcnn import NETS
    from common.mxnet_setup import mx

    rng = np.random.RandomState(0)
    for name, (outputs, shape) in NETS.items():
        body = mx.sym.Convolution(mx.sym.var("data"), num_filter=4, kernel=(3, 3), name="conv1")
        body = mx.sym.LeakyReLU(body, act_type="prelu", name="prelu1")
        if name == "det1":
            body = mx.sym.Pooling(body, kernel=(2, 2), stride=(2, 2), pool_type="max", pooling_convention="full")
            body = mx.sym.Convolution(body, num_filter=4, kernel=(5, 5), name="conv2")
        widths = dict(zip(outputs, (2, 4, 10) if name != "det4" else (2,) * 5))
        heads = [mx.sym.Convolution(body, num_filter=width, kernel=(1, 1), name=head) if name == "det1" else
                 mx.sym.FullyConnected(body, num_hidden=width, name=head) for head, width in widths.items()]
        symbol = mx.sym.Group(heads)
        shapes = dict(zip(symbol.list_arguments(), symbol.infer_shape(data=(1, *shape))[0]))
        del shapes["data"]
        checkpoint.save(f"{folder}/{name}", 1, symbol, {
            key: mx.nd.array(rng.normal(size=size) * 0.1) for key, size in shapes.items()}, {})
    mx.nd.waitall()
    _remove_hashes(f"{folder}/det1")


def tar_shards(folder="tars"):
    """WebDataset shards."""
    from datasets.tar_shards import write_shards

    training_set("whole")
    write_shards("whole", folder, images_per_shard=6, progress=False)
    shutil.rmtree("whole")


def protocol(name, folder="official"):
    """The official list of a protocol with all its pairs, of a few tiny images."""
    people = [f"Person_{letter}" for letter in "abcd"]
    for person in people:
        for number in (1, 2):
            write(f"{folder}/{_LAYOUTS[name][0].format(person=person, number=number)}", jpeg([number, ord(person[-1])]))
    _LAYOUTS[name][1](folder, people)


def _write_lfw(folder, people):
    lines = ["10\t300"]
    for _ in range(10):
        lines += [f"{people[number % 4]}\t1\t2" for number in range(300)]
        lines += [f"{people[number % 4]}\t1\t{people[(number + 1) % 4]}\t2" for number in range(300)]
    write(f"{folder}/pairs.txt", "\n".join(lines) + "\n")


def _write_agedb(folder, people):
    names = [[f"{number}_{person}_2{number}_m.jpg" for number in (1, 2)] for person in people]
    lines = []
    for _ in range(10):
        lines += [f"{names[number % 4][0]} {names[number % 4][1]} 1" for number in range(300)]
        lines += [f"{names[number % 4][0]} {names[(number + 1) % 4][1]} 0" for number in range(300)]
    write(f"{folder}/agedb_30_pairs.txt", "\n".join(lines) + "\n")


def _write_calfw(folder, people):
    lines = []
    for number in range(6000):
        one, fold = people[number % 4], number // 300 + 1 if number < 3000 else 0
        other = one if fold else people[(number + 1) % 4]
        lines += [f"{one}_0001.jpg {fold}", f"{other}_0002.jpg {fold}"]
    write(f"{folder}/pairs_CALFW.txt", "\n".join(lines) + "\n")


def _write_cfp(folder, people):
    for letter, kind in (("F", "frontal"), ("P", "profile")):
        write(f"{folder}/Protocol/Pair_list_{letter}.txt", "".join(
            f"{number + 1} ../Data/Images/{person}/{kind}/01.jpg\n" for number, person in enumerate(people)))
        for person in people:
            write(f"{folder}/Data/Images/{person}/{kind}/01.jpg", jpeg([ord(letter), ord(person[-1])]))
    for fold in range(1, 11):
        for name, shift in (("same", 0), ("diff", 1)):
            write(f"{folder}/Protocol/Split/FP/{fold:02d}/{name}.txt", "".join(
                f"{number % 4 + 1},{(number + shift) % 4 + 1}\n" for number in range(350)))


def _write_ytf(folder, people):
    lines = ["split number, first name, second name, is same, is same"]
    for fold in range(1, 11):
        lines += [f"{fold}, {people[number % 4]}/1, {people[(number + number % 2) % 4]}/2, {1 - number % 2}, 0"
                  for number in range(500)]
    write(f"{folder}/splits.txt", "\n".join(lines) + "\n")


_LAYOUTS = {  # where a person's images lie, and what writes the list
    "lfw": ("{person}/{person}_000{number}.jpg", _write_lfw),
    "agedb_30": ("{number}_{person}_2{number}_m.jpg", _write_agedb),
    "calfw": ("{person}_000{number}.jpg", _write_calfw),
    "cfp_fp": ("unused/{person}{number}.jpg", _write_cfp),
    "ytf": ("{person}/{number}/0.jpg", _write_ytf),
}
