"""Clean a training set by the embeddings of a model: images under wrong names, identities under two names, and
identities that a test set has.

    python datasets/clean.py embed   --model models/r100,1 --dataset emore --embeddings emore-embedded
    python datasets/clean.py judge   --dataset emore --embeddings emore-embedded --output emore-judged
    python datasets/clean.py merge   --dataset emore --embeddings emore-embedded --output emore-pairs
    python datasets/clean.py overlap --model models/r100,1 --dataset emore --embeddings emore-embedded \\
                                     --test datasets/faces_emore/lfw.bin --output emore-lfw
    python datasets/clean.py apply   --dataset emore --embeddings emore-embedded --output datasets/emore-clean \\
                                     --decisions emore-judged/decisions.csv emore-judged-page-0001.csv

judge, merge and overlap write decisions.csv, and pages on which a person decides what is doubtful; apply writes the
cleaned set. See docs/cleaning.md.
"""
import sys
from contextlib import closing
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from common.flags import add_device_flags, device_names, positive


def embed(args, training_set):
    from common.checkpoint import on_backend
    from common.devices import get_devices
    from datasets.embedding_store import embed_set

    done = embed_set(on_backend(args.model, args.backend), training_set, args.embeddings,
                     get_devices(device_names(args)), args.batch_size, args.dtype)
    return [f"{args.embeddings}: {done.embeddings.shape[0]:,} embeddings of {done.embeddings.shape[1]} dimensions"]


def judge(args, training_set):
    from datasets import label_noise
    from datasets.embedding_store import load_embeddings

    embedded = load_embeddings(args.embeddings, training_set)
    return label_noise.summary(label_noise.judge(embedded, training_set, args.output, args.review, args.drop,
                                                 args.per_page))


def merge(args, training_set):
    from datasets import same_identity
    from datasets.embedding_store import load_embeddings

    embedded = load_embeddings(args.embeddings, training_set)
    return same_identity.summary(same_identity.propose_merges(embedded, training_set, args.output, args.merge,
                                                              args.review, args.cut, args.per_page))


def overlap(args, training_set):
    from common.checkpoint import on_backend
    from common.devices import get_devices
    from datasets import overlap as overlaps
    from datasets.decisions import apply_decisions
    from datasets.decisions import summary as applied_lines
    from datasets.embedding_store import load_embeddings

    embedded, output = load_embeddings(args.embeddings, training_set), Path(args.output)
    found = overlaps.find_overlap(embedded, training_set, on_backend(args.model, args.backend), args.test, output,
                                  args.drop, args.review, args.cut, get_devices(device_names(args)), args.batch_size,
                                  args.per_page)
    lines = overlaps.summary(found)
    if args.apply:
        lists = output / "decisions.csv", output / "duplicates.csv"
        lines += applied_lines(apply_decisions(embedded, training_set, lists, args.apply))
    return lines


def apply(args, training_set):
    from datasets.decisions import apply_decisions, summary
    from datasets.embedding_store import load_embeddings

    return summary(apply_decisions(load_embeddings(args.embeddings, training_set), training_set, args.decisions,
                                   args.output))


def parse_args():
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_embed(_add(commands, embed, "embed every image of a set; goes on where it was stopped"))
    _add_judge(_add(commands, judge, "find images under a wrong name"))
    _add_merge(_add(commands, merge, "find identities that are the same person"))
    _add_overlap(_add(commands, overlap, "find identities and images that a test set has as well"))
    part = _add(commands, apply, "write the cleaned set")
    part.add_argument("--decisions", nargs="+", required=True, help="lists: decisions.csv of the other commands, what "
                      "the pages saved; later ones go before earlier ones")
    part.add_argument("--output", required=True, help="folder for the cleaned set, which must be new")
    return parser.parse_args()


def _add(commands, function, text):
    part = commands.add_parser(function.__name__, help=text, description=text)
    part.set_defaults(function=function)
    part.add_argument("--dataset", required=True, help="name of a data set, or a folder with train.rec")
    part.add_argument("--embeddings", required=True, help="folder of the set's embeddings, which 'embed' writes")
    return part


def _add_embed(part):
    _add_model_flags(part)
    part.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="type of the numbers on disk")


def _add_model_flags(part):
    part.add_argument("--model", required=True, help="PREFIX,EPOCH of a checkpoint")
    part.add_argument("--batch-size", type=positive, default=64, help="images that a device embeds at once")
    add_device_flags(part)


def _add_judge(part):
    part.add_argument("--drop", type=float, default=75.0, help="drop images that are farther than this from their "
                      "identity's centre, in degrees")
    part.add_argument("--review", type=float, default=65.0, help="show images between this and --drop, in degrees")
    _add_page_flags(part)


def _add_merge(part):
    part.add_argument("--merge", type=float, default=35.0, help="merge identities whose centres are up to so many "
                      "degrees apart")
    part.add_argument("--review", type=float, default=50.0, help="show pairs between --merge and this, in degrees")
    _add_cut_flag(part)
    _add_page_flags(part)


def _add_overlap(part):
    _add_model_flags(part)
    part.add_argument("--test", required=True, help="a .bin pack, a folder of images, or a folder with train.rec")
    part.add_argument("--drop", type=float, default=50.0, help="drop identities whose centre is within so many degrees "
                      "of a test image")
    part.add_argument("--review", type=float, default=60.0, help="show identities between --drop and this, in degrees")
    part.add_argument("--apply", metavar="FOLDER", help="write the set without them to this new folder at once")
    _add_cut_flag(part)
    _add_page_flags(part)


def _add_cut_flag(part):
    part.add_argument("--cut", type=float, default=75.0, help="an identity's centre is made of the images within so "
                      "many degrees of it")


def _add_page_flags(part):
    part.add_argument("--output", required=True, help="folder for the list and the pages, which must be new")
    part.add_argument("--per-page", type=positive, default=100, help="decisions on a page")


def main():
    """Run the command."""
    args = parse_args()
    from datasets import find_dataset
    from datasets.training_set import TrainingSet

    with closing(TrainingSet(find_dataset(args.dataset).folder)) as training_set:
        print("\n".join(args.function(args, training_set)))


if __name__ == "__main__":
    run(main)
