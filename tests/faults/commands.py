"""The table: every command, how its input is made, and which files it reads.

To add a command, add a line: the command as it is typed (names of files and folders should be unlike other words, for
messages are searched for them), the functions of `inputs` that make what it needs, and the files that it reads with
their forms. Run `python tests/faults/table.py --only NAME` and look at what fails. A damage after which the command
may succeed needs a reason: `accepts` maps a kind of damage, or 'kind: name of the damage', to it.
"""
from functools import partial
from typing import Callable, Dict, NamedTuple, Tuple

import inputs
import use_inputs
import weights
from damages import Form
from data_forms import CHECKSUMS, FEATURE, IMAGE, PACK, RECORDS, TAR
from model_forms import ARRAY, PARAMS, SYMBOL
from text_forms import INDEX, JSON, JSON_LINES, PROPERTY, TEXT
from weight_forms import GALLERY, LEGACY, NPZ, ONNX, PTH, SAFETENSORS


class Reads(NamedTuple):
    """A file that a command reads. accepts: expressions that match 'kind: name' of damages -> why the command may go
    on, beside those of the form; told: other files and folders, of which a message may name one instead, where the
    two contradict each other or a list names what is not there."""

    path: str
    form: Form
    accepts: Dict[str, str] = {}
    told: Tuple[str, ...] = ()


class Command(NamedTuple):
    """A line of the table.

    words: as typed, the script first; make: functions that make the input in the current folder; reads: its files;
    output: what it writes, changes outside of which are a failure, the first of them named on the command line;
    codes: exit codes beside 2 that tell of a damage; until: words of a server's, after which it has read its files.
    """

    words: str
    make: Tuple[Callable, ...]
    reads: Tuple[Reads, ...]
    output: Tuple[str, ...] = ("outdir",)
    codes: Tuple[int, ...] = ()
    until: str = ""


COPIED = "images are copied as they are, whatever their size; the doctor looks at each"
NUMBERED = "the numbers of records are names alone where no header goes by them"
SHORTER = "a list that is cut may be a sound shorter one"
LONGER = "a list may name a thing twice"
OTHER = "another name or number may be as good"
NOT_THERE = "what is not in a folder is none of its images or results"
UNFINISHED = "a log whose last line is still being written is read up to there"
BEHIND = "rows behind those that are noted as done are made anew"
ANEW = "what an earlier run left is made anew"
DROPPED = "a photograph that cannot be read is dropped, and listed with the reason in dropped.csv"
OPTIONAL = "the file may be absent"
NOT_ASKED = "what the command does not ask for may be anything"
WARNED = "the doctor warns"
SAID = "what is not there is said, and the training goes without"
NAMES_ALONE = {"random|hostile": "of a pretrained model the arrays are taken, and the graph of the network named"}
LEFT_OUT = "a picture that cannot be used is left out, and told of"
CALLED = {"wrong size: another model_name|hostile: names: text": "people and a model may have any name in a gallery"}
NO_MODEL = {**CALLED, "wrong size: (another (model|flip)$|nobody)": "what makes no use of the model holds no gallery "
            "against it", "wrong size: embeddings (of another width|half)": "of a model of that size it were sound"}
BEGUN = "a gallery that is not there is begun"
WORTH = "another threshold, or what the command does not ask for, may be as good"
UNHASHED = "a model that SHA256SUMS does not name, such as the original's, is taken as it is"
ON_THE_CARD = "what the model card repeats may be anything of its kind"
OUTSIDE = ("/etc/passwd", "/dev/zero")  # of which a message may speak where a list names them

LIST = {"truncated": SHORTER, "random": OTHER, "wrong size: (twice|a line)": LONGER}


def set_files(folder="trainset", copied=False, told=()):
    """The files of a training set. copied: whether the command copies images without looking at them."""
    image, size = ({"wrong size: an image": COPIED}, {kind: COPIED for kind in (
        "truncated: to 6", "random: bit", "wrong size: other images")}) if copied else ({}, {})
    return (Reads(f"{folder}/train.rec", RECORDS, image), Reads(f"{folder}/train.idx", INDEX),
            Reads(f"{folder}/property", PROPERTY, size, told))


def model_files(prefix="net/model", epoch=1, told=("trainset", "pairs", "megaface", "facescrub")):
    """The files of a checkpoint. told: what embeddings are called that have no direction."""
    return Reads(f"{prefix}-symbol.json", SYMBOL, told=told), Reads(f"{prefix}-{epoch:04d}.params", PARAMS, told=told)


def shard_files(copied=False, folder="shardset"):
    """The files of the first of two shards. copied: see `set_files`."""
    records, index, size = set_files(folder, copied)
    return (records._replace(path=f"{folder}/train-00000-of-00002.rec"), Reads(
        f"{folder}/train-00000-of-00002.idx", INDEX, {"random: bit|hostile: (offsets ex|numbers)": NUMBERED}), size)


def embedded_files(notes=None, **accepts):
    """What clean.py embed has written. notes: what is accepted of its notes; accepts: of an array, by its name."""
    return (Reads("embedded/embedded.json", JSON, {"random: bit": NOT_ASKED, **(notes or {})}),
            Reads("embedded/embeddings.npy", ARRAY, accepts.get("embeddings", {})),
            Reads("embedded/labels.npy", ARRAY, accepts.get("labels", {})),
            Reads("embedded/digests.npy", ARRAY, {"hostile: numbers that are not": "a hash may be any number",
                                                  **accepts.get("digests", {})}))


SMALL = "--image-size 16,16"
TRAIN = ("recognition/train.py --network y1 --net-blocks 1,1,1,1 --emb-size 16 --per-batch-size 3 --max-steps 3 "
         "--devices cpu --models-root outdir --report 0")
USE = f"--model net/model,1 {SMALL} --devices cpu"
UNREADABLE = "an image that cannot be read gets a placeholder, and is listed"
FEW_NOISES = "a noise list may name images that the list has not; how many it names is told"
COUNTED = "the list is counted, and the count told"
ANY_LENGTH = "features are copied, whatever their length"
ELSEWHERE = "of features or a model from elsewhere it is not known how they came about"
LISTS = tuple(Reads(f"{kind}_lst", TEXT, LIST, ("features", "packed", "of one identity"))
              for kind in ("facescrub", "megaface"))
NOISES = tuple(Reads(f"{kind}_noises.txt", TEXT, {
    "empty|truncated|random|wrong (size|type: (json|program|page))|hostile": FEW_NOISES})
               for kind in ("facescrub", "megaface"))
WITH_NOISES = "--facescrub-lst facescrub_lst --megaface-lst megaface_lst --facescrub-noises facescrub_noises.txt " \
              "--megaface-noises megaface_noises.txt"
FEATURES = (Reads("features/facescrub/Ann/1.jpg_insightface.bin", FEATURE),
            Reads("features/megaface/000/1/0.jpg_insightface.bin", FEATURE, told=("distractor",)))

TABLE = (
    # datasets: training sets
    Command("datasets/dir2rec.py --input people --output outdir --image-size 16,16", (inputs.image_folder,),
            (Reads("people/p1/0.jpg", IMAGE, {"missing": NOT_THERE}),)),
    Command("datasets/doctor.py trainset --output outdir --fix outdir/fixed", (inputs.training_set,), set_files(),
            codes=(1,)),
    Command("datasets/doctor.py trainset --seal", (inputs.sealed_set,), (
        Reads("trainset/train.checksums", CHECKSUMS, {"missing|wrong type: a link": OPTIONAL}),),
            ("trainset/train.checksums",), (1,)),
    Command(f"datasets/doctor.py pairs.bin --output outdir --fix outdir/fixed.bin {SMALL}", (inputs.pack,),
            (Reads("pairs.bin", PACK, {"hostile: all genuine": WARNED}),), codes=(1,)),
    Command(f"datasets/doctor.py pairs.bin {SMALL}", (inputs.sealed_pack,), (
        Reads("pairs.checksums", CHECKSUMS, {"missing|wrong type: a link": OPTIONAL}),), (), (1,)),
    Command("datasets/rec2shufrec.py --input trainset --output outdir --shards 2 --copy-vers",
            (inputs.training_set, partial(inputs.pack, "trainset/lfw.bin")), set_files(copied=True)),
    Command("datasets/subset.py --input trainset --output outdir --classes classes.txt --seed 1",
            (inputs.training_set, partial(inputs.write, "classes.txt", "0 2\n1\n")),
            (*set_files(copied=True), Reads("classes.txt", TEXT, {
                **LIST, "wrong size: a field less|hostile: number ''": SHORTER}, ("trainset",)))),
    Command("datasets/subset.py --input shardset --output outdir", (inputs.shard_set,), shard_files(copied=True)),
    Command("datasets/relabel.py --input trainset --mapping mapping.csv --output outdir",
            (inputs.training_set, partial(inputs.write, "mapping.csv", "original,identity\n0,1\n1,0\n2,-1\n")),
            (*set_files(copied=True, told=("mapping.csv",)), Reads("mapping.csv", TEXT, {"random: bit": OTHER}))),
    Command("datasets/dataset_merge.py --include trainset,otherset --same persons.csv --output outdir",
            (inputs.training_set, partial(inputs.training_set, "otherset", seed=1),
             partial(inputs.write, "persons.csv", "set,class,same_set,same_class\n0,1,1,0\n0,0,1,2\n")),
            (*set_files("otherset", True, ("persons.csv",)), Reads("persons.csv", TEXT, LIST))),
    Command("datasets/rec2image.py --input trainset --output outdir", (inputs.training_set,), set_files(copied=True)),
    Command("datasets/rec2image.py --include trainset,shardset --output outdir",
            (inputs.training_set, inputs.shard_set), shard_files(copied=True)),
    Command("datasets/webdataset.py to --input trainset --output outdir --images-per-shard 4", (inputs.training_set,),
            set_files(copied=True)),
    Command(f"datasets/webdataset.py from --input tars --output outdir {SMALL}", (inputs.tar_shards,),
            (Reads("tars/train-000000.tar", TAR),)),
    # datasets: cleaning
    Command("datasets/clean.py embed --model net/model,1 --dataset trainset --embeddings outdir --devices cpu",
            (inputs.training_set, inputs.model), (*set_files(told=("net",)), *model_files())),
    Command("datasets/clean.py embed --model net/model,1 --dataset trainset --embeddings embedded --devices cpu",
            (inputs.half_embeddings,), embedded_files(
                {"missing|wrong type: a link": ANEW},  # five rows are done, which end at bytes 208, 148 and 168
                embeddings={r"truncated: to 2(0[89]|[1-7]\d) of": BEHIND}, labels={r"truncated: to 1(4[89]|[56]\d) of":
                                                                                   BEHIND},
                digests={r"truncated: to 1(6[89]|[789]\d) of": BEHIND}), ("embedded",)),
    Command("datasets/clean.py judge --dataset trainset --embeddings embedded --output outdir", (inputs.embeddings,),
            (*embedded_files(), *set_files(told=("embedded",)))),
    Command("datasets/clean.py merge --dataset trainset --embeddings embedded --output outdir --review 170",
            (inputs.embeddings,), embedded_files()),
    Command("datasets/clean.py overlap --model net/model,1 --dataset trainset --embeddings embedded --test pairs.bin "
            "--output outdir --devices cpu --review 170", (inputs.embeddings, inputs.pack),
            (Reads("pairs.bin", PACK, {"hostile: all genuine": NOT_ASKED}), *model_files(), *embedded_files())),
    Command("datasets/clean.py overlap --model net/model,1 --dataset trainset --embeddings embedded --test people "
            "--output outdir --devices cpu", (inputs.embeddings, inputs.image_folder),
            (Reads("people/p1/0.jpg", IMAGE, {"missing": NOT_THERE}),)),
    Command("datasets/clean.py overlap --model net/model,1 --dataset trainset --embeddings embedded --test testset "
            "--output outdir --devices cpu", (inputs.embeddings, partial(inputs.training_set, "testset", seed=2)),
            (*set_files("testset")[:2], Reads("testset/property", PROPERTY, {
                "truncated: to 6|random: bit|wrong size": "images must be of the training set's size"}))),
    Command("datasets/clean.py apply --dataset trainset --embeddings embedded --decisions images.csv persons.csv "
            "--output outdir", (inputs.embeddings, partial(
                inputs.write, "images.csv", "record,angle,decision\n1,80.1,drop\n2,66,review\n4,66.5,keep\n"),
                partial(inputs.write, "persons.csv", "identity,other,decision\n0,1,merge\n1,2,keep\n")),
            (Reads("images.csv", TEXT, LIST), Reads("persons.csv", TEXT, LIST),
             *embedded_files(embeddings={"hostile: numbers that are not": NOT_ASKED}))),
    # datasets: faces and pairs
    Command("datasets/align.py --input photographs --output outdir --landmarks landmarks.csv --workers 1",
            (inputs.photographs,), (
                Reads("landmarks.csv", TEXT, {**LIST, "hostile": OTHER}),
                Reads("photographs/p0/2.jpg", IMAGE, {"": DROPPED}))),
    Command("datasets/align.py --input photographs --output aligned --landmarks landmarks.csv --workers 1",
            (inputs.aligned,), (Reads("aligned/align.json", JSON), Reads("aligned/landmarks.csv", TEXT, {"": ANEW}),
                                Reads("aligned/p0/2.jpg", IMAGE, {"": ANEW})), ("aligned",)),
    Command("datasets/align.py --input photographs --output outdir --detector mtcnn --workers 1",
            (inputs.photographs, inputs.mtcnn), (*(part for name in ("det1", "det2", "det3")
                                                   for part in model_files(f"mtcnn/{name}")),
                                                 Reads("mtcnn/det4-symbol.json", SYMBOL, {
                                                     "missing|wrong type: an? (endless|link|folder|pipe)": OPTIONAL}),
                                                 Reads("mtcnn/det4-0001.params", PARAMS))),
    Command(f"datasets/pairs2pack.py --pairs couples.txt --root people --output outdir {SMALL}",
            (inputs.image_folder, partial(inputs.write, "couples.txt", "p0/0.jpg p0/1.jpg 1\np0/0.jpg p1/0.jpg 0\n"
                                          "p2/0.jpg p2/1.jpg 1\np1/1.jpg p2/0.jpg 0\n")),
            (Reads("couples.txt", TEXT, LIST, ("people", *OUTSIDE)), Reads("people/p1/0.jpg", IMAGE))),
    Command(f"datasets/lfw2pack.py --data-dir people --output outdir --pairs couples.txt {SMALL}",
            (*(partial(inputs.write, f"people/{name}/{name}_000{number}.jpg", inputs.jpeg(number)) for name in "AB"
               for number in (1, 2)),
             partial(inputs.write, "couples.txt", "1\t2\nA\t1\t2\nB\t1\t2\nA\t1\tB\t2\nA\t2\tB\t1\n")),
            (Reads("couples.txt", TEXT, {"random: bit": OTHER}, ("people", *OUTSIDE)),
             Reads("people/A/A_0001.jpg", IMAGE))),
    *(Command(f"datasets/build_eval_pack.py --protocol {name} --data-dir official --output outdir {SMALL}",
              (partial(inputs.protocol, name),),
              tuple(Reads(f"official/{path}", TEXT, {"random: bit": OTHER, **more}, OUTSIDE) for path in lists),
              ("outdir", "outdir.missing.txt"))
      for name, lists, more in (
          ("lfw", ["pairs.txt"], {}), ("agedb_30", ["agedb_30_pairs.txt"], {}), ("calfw", ["pairs_CALFW.txt"], {}),
          ("ytf", ["splits.txt"], {"wrong size: a field less": "the last field of a line is not needed"}),
          ("cfp_fp", ["Protocol/Pair_list_F.txt", "Protocol/Split/FP/03/same.txt"], {}))),
    # eval
    Command(f"eval/verification.py --model net/model,1 --target pairs.bin --output outdir --devices cpu {SMALL}",
            (inputs.model, inputs.settings, inputs.pack),
            (*model_files(), Reads("net/settings.json", JSON, {"": ELSEWHERE}),
             Reads("pairs.bin", PACK))),
    Command(f"eval/verification.py --model net/model,1 --target pairs.bin --output scores --devices cpu {SMALL}",
            (inputs.model, inputs.pack, inputs.kept_embeddings),
            (Reads("scores/embeddings/*.npy", ARRAY, {"": ANEW}),
             Reads("scores/evaluations.csv", TEXT, {"missing|empty": ANEW, "": "the table is appended to, not read"}),
             Reads("scores/results.json", JSON, {"": ANEW})), ("scores",)),
    Command(f"eval/verification.py --model net/model --data-dir . --target videos --output outdir --devices cpu {SMALL}"
,
            (partial(inputs.model, epochs=(1, 2)), inputs.template_set),
            (*set_files("videos"), Reads("videos/templates.txt", TEXT, {
                **LIST, r"hostile: name '(\.\.|/|n)": "names of videos are for people, and name no file"}),
             Reads("videos/pairs.txt", TEXT, LIST))),
    Command("eval/gen_megaface.py --model net/model,1 --facescrub-lst facescrub_lst --megaface-lst megaface_lst "
            "--facescrub-root facescrub_images --megaface-root megaface_images --output outdir --image-size 3,16,16 "
            "--devices cpu", (inputs.model, inputs.megaface_images),
            (*(reads._replace(accepts={**LIST, "wrong size|hostile": UNREADABLE}, told=("outdir",)) for reads in LISTS),
             *model_files(), Reads("facescrub_images/Ann/1.jpg", IMAGE, {"": UNREADABLE}))),
    Command(f"eval/megaface.py {WITH_NOISES} --feature-dir features --output outdir", (inputs.features,),
            (*LISTS, *NOISES, *FEATURES, Reads("features/insightface_models.txt", TEXT, {"": ELSEWHERE}),
             Reads("features/facescrub_insightface_unreadable.txt", TEXT, {"": COUNTED}))),
    Command(f"eval/megaface.py {WITH_NOISES} --feature-dir features --pack packed --output outdir",
            (inputs.packed_features,), (
                Reads("packed/megaface_insightface.npy", ARRAY, {"missing|wrong type: a link": ANEW}, ("distractor",)),
                Reads("packed/megaface_insightface.json", JSON, {"missing|wrong type: a link": ANEW})),
            ("outdir", "packed")),
    Command(f"eval/remove_noises.py {WITH_NOISES} --feature-dir-input features --feature-dir-out outdir",
            (inputs.features,), (*LISTS, *NOISES, *(reads._replace(accepts={"hostile: a number 1e": ANY_LENGTH})
                                                    for reads in FEATURES))),
    Command("eval/ijb_11.py --model net/model,1 --target IJBC --data-dir . --output outdir --variants N1D1F1 "
            "--devices cpu", (inputs.ijb,), (
                *(Reads(f"IJBC/meta/ijbc_{name}.txt", TEXT, accepts, ("IJBC",)) for name, accepts in (
                    ("face_tid_mid", {"random: bit": OTHER}), ("name_5pts_score", {"random: bit": OTHER}),
                    ("template_pair_label", LIST))),
                *model_files(told=("images",)), Reads("IJBC/loose_crop/1_1.jpg", IMAGE))),
    Command("eval/ijb_1n.py --model net/model,1 --target IJBC --data-dir . --output ijb --variants N1D1F1 "
            "--devices cpu", (inputs.ijb_features,), (
                *(Reads(f"IJBC/meta/ijbc_1N_{name}.csv", TEXT, {**LIST, "hostile: name": OTHER}, ("gallery",))
                  for name in ("gallery_G1", "probe_mixed")),
                Reads("ijb/ijbc_features.npy", ARRAY, {"missing|wrong type: a link": ANEW}, ("image number",)),
                Reads("ijb/ijbc_features.json", JSON, {"missing|wrong type: a link": ANEW})), ("ijb",)),
    Command("eval/report.py net scores --output outdir", (inputs.train_log, inputs.results),
            (Reads("net/train.jsonl", JSON_LINES, {
                "missing|empty|wrong type: a link": NOT_THERE, "truncated|wrong type: json": UNFINISHED,
                "random: bit|wrong size: (twice|a line)|hostile: .* =": OTHER}),
             Reads("net/settings.json", JSON, {"missing|wrong type: a link": OPTIONAL, "random: bit|hostile": OTHER}),
             Reads("scores/results.json", JSON, {
                 "missing|wrong type: a link": NOT_THERE, "random: bit|hostile: .* (=|left out)": OTHER}),
             Reads("scores/roc.png", IMAGE, {"": "the page tells that the picture is missing"}))),
    # recognition
    Command(f"{TRAIN} --dataset trainset", (partial(inputs.training_set, side=112),
                                            partial(inputs.pack, "trainset/lfw.bin", side=112)),
            (*set_files(), Reads("trainset/lfw.bin", PACK, {"missing|wrong type: a (link|folder)": SAID}))),
    Command(f"{TRAIN} --dataset trainset --pretrained start/model",
            (partial(inputs.training_set, side=112), inputs.trained_model),
            (Reads("start/model-symbol.json", SYMBOL, NAMES_ALONE), Reads("start/model-0001.params", PARAMS))),
    Command("recognition/train.py --test-io --dataset shardset --per-batch-size 4 --devices cpu", (inputs.shard_set,),
            shard_files(), ()),
    Command("recognition/train.py --test-io --dataset trainset --config config.json --devices cpu",
            (inputs.training_set, partial(inputs.write, "config.json", '{"per_batch_size": 4, "lr": 0.05, "seed": 3,\n'
                                          '"lr_steps": "10,20", "net_blocks": [1, 4, 6, 2], "network": "y1"}')),
            (Reads("config.json", JSON, {"random: bit|hostile: .* (=|left out)": OTHER}, ("trainset", "net_blocks")),),
            ()),
    Command("recognition/drop.py --model net/model,1 --dataset trainset --output outdir --devices cpu --angle 179",
            (inputs.training_set, partial(inputs.model, classes=6)), (*set_files(told=("net",)), *model_files())),
    Command("recognition/angles.py --model net/model,1 --dataset trainset --others people --output outdir "
            "--devices cpu",
            (inputs.training_set, inputs.image_folder, inputs.settings, partial(inputs.model, classes=6)),
            (*set_files(told=("net", "people")), *model_files(told=("trainset", "people")),
             Reads("people/p1/0.jpg", IMAGE, {"missing": NOT_THERE}),
             Reads("net/settings.json", JSON, {"": ELSEWHERE}))),
    Command("recognition/draw_losses.py angles --model net/model,1 --dataset trainset --output outdir --devices cpu",
            (inputs.training_set, partial(inputs.model, classes=6)), (*set_files(told=("net",)), *model_files())),
    Command("recognition/draw_losses.py embeddings --losses softmax --faces people --steps 2 --output outdir "
            "--devices cpu", (inputs.image_folder,), (Reads("people/p1/0.jpg", IMAGE, {
                "missing": NOT_THERE,
                "wrong size|hostile: a PNG of 1000000 x 1$": "pictures are brought to one size"}),)),
    # recognition: a model put to use
    Command(f"recognition/compare.py first.jpg second.jpg --threshold 0.3 --output outdir {USE}", (use_inputs.faces,),
            (*model_files(told=("first.jpg",)), Reads("second.jpg", IMAGE))),
    Command(f"recognition/compare.py first.jpg second.jpg --thresholds scores/results.json --far 0.1 --output none "
            f"{USE}", (use_inputs.faces, partial(inputs.model, hashed=True), use_inputs.verified), (
                Reads("scores/results.json", JSON, {"random: bit|hostile: .* (=|left out)": WORTH}, ("net",)),
                Reads("net/SHA256SUMS", TEXT, {"": UNHASHED}, ("net",))), ()),
    Command(f"recognition/embed.py people --output outdir/faces.npy {USE}", (inputs.image_folder, inputs.model),
            (*model_files(told=("people",)), Reads("people/p1/0.jpg", IMAGE, {"": LEFT_OUT}))),
    Command(f"recognition/embed.py trainset/train.rec --output outdir/faces.npy {USE}",
            (inputs.training_set, inputs.model),
            (Reads("trainset/train.rec", RECORDS, {"random|wrong size: an image|hostile": LEFT_OUT}),
             Reads("trainset/train.idx", INDEX, {"random: bit|hostile: (offsets ex|numbers)": NUMBERED}))),
    Command(f"recognition/embed.py people --output outdir/faces.npy --model net/model-0001.onnx --devices cpu {SMALL}",
            (use_inputs.onnx_model,), (Reads("net/model-0001.onnx", ONNX, told=("people",)),)),
    Command(f"recognition/search.py enrol people --gallery outdir/people.npz {USE}",
            (inputs.image_folder, inputs.model), (Reads("people/p1/0.jpg", IMAGE, {"": LEFT_OUT}),)),
    Command(f"recognition/search.py enrol people --gallery known/people.npz {USE}", (use_inputs.gallery,),
            (Reads("known/people.npz", GALLERY, {
                **CALLED, "missing|wrong type: a link": BEGUN, "wrong size: nobody": "nobody may be enrolled yet"}),),
            ("known",)),
    Command(f"recognition/search.py query first.jpg second.jpg --gallery known/people.npz --output outdir "
            f"--thresholds scores/results.json --far 0.1 {USE}", (use_inputs.gallery, use_inputs.verified),
            (*model_files(told=("known", "scores")), Reads("known/people.npz", GALLERY, CALLED),
             Reads("first.jpg", IMAGE, {"": LEFT_OUT}),
             Reads("scores/results.json", JSON, {"random: bit|hostile: .* (=|left out)": WORTH}))),
    Command("recognition/search.py list --gallery known/people.npz", (use_inputs.gallery,),
            (Reads("known/people.npz", GALLERY, NO_MODEL),), ()),
    Command("recognition/search.py remove p1 --gallery known/people.npz", (use_inputs.gallery,),
            (Reads("known/people.npz", GALLERY, NO_MODEL),), ("known",)),
    Command("recognition/serve.py --gallery known/people.npz --thresholds scores/results.json --far 0.1 --port 0 "
            f"{USE}", (use_inputs.gallery, use_inputs.verified),
            (*model_files(told=("known", "scores")), Reads("known/people.npz", GALLERY, CALLED),
             Reads("scores/results.json", JSON, {"random: bit|hostile: .* (=|left out)": WORTH})), (),
            until="Ctrl-C ends it"),
    # recognition: models handed on
    Command(f"recognition/export.py --model net/model,1 --output outdir/model.onnx {SMALL}", (inputs.model,),
            model_files()),
    Command(f"recognition/export.py --model net/model,1 --format gluon --output outdir/model {SMALL} --no-card",
            (inputs.model,), model_files()[:1]),
    Command("recognition/export.py --model net/model,1 --format mxnet --output outdir/slim --faces pairs.bin "
            f"--evaluations scores {SMALL}", (use_inputs.trained,), (
                Reads("pairs.bin", PACK, {"hostile: all genuine": NOT_ASKED}),
                Reads("net/settings.json", JSON, {"missing|wrong type: a link": OPTIONAL,
                                                  "random: bit|hostile": ON_THE_CARD}),
                Reads("net/train.jsonl", JSON_LINES, {
                    "missing|empty|wrong type: a link": NOT_THERE, "truncated|wrong type: json": UNFINISHED,
                    "random: bit|wrong size: (twice|a line)|hostile: .* =": ON_THE_CARD}),
                Reads("scores/results.json", JSON, {"missing|wrong type: a link": NOT_THERE,
                                                    "random: bit|hostile: .* (=|left out)": ON_THE_CARD}))),
    *(Command(f"recognition/import_torch.py --weights backbone.{end} --output outdir/model",
              (partial(weights.write_weights, end),), (Reads(f"backbone.{end}", form),)) for end, form in (
                  ("pth", PTH), ("pt", LEGACY), ("safetensors", SAFETENSORS), ("npz", NPZ))),
    Command("recognition/launch.py --hosts hosts.txt -- --network y1 --kvstore dist_sync", (use_inputs.hosts,),
            (Reads("hosts.txt", TEXT, {**LIST, "wrong size: a field less": "a comment is lost"}),), ()),
)
WITHOUT_FILES = {"common/check_python.py": "reads no file", "symbols/summary.py": "reads no file",
                 "datasets/render.py": "reads no file",
                 "recognition/role.py": "reads its standard input alone, which is the launcher's hold on it"}
