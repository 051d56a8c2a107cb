"""Draw what losses do: PNG files, and a page that shows them all.

    python recognition/draw_losses.py                                     # all that needs no model
    python recognition/draw_losses.py curves --losses arcface,arcface:loss_m2=0.3,sphereface:loss_m1=2
    python recognition/draw_losses.py angles --model models/y1-arcface-emore/model --dataset emore

curves: the label's logit over its angle; boundaries: of two classes; regions: the same on circle and sphere;
embeddings: two- and three-dimensional ones of a tiny network that is trained here; angles: between embeddings and
class centres, at checkpoints that were saved with --ckpt-embedding 0.
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from common.flags import add_device_flags, device_names, positive
from datasets import find_dataset


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", help="curves, boundaries, regions, embeddings, "
                        "angles; none: all, angles only with --model")
    parser.add_argument("--losses", default="", help="losses with commas between, each with settings behind colons, "
                        "such as sphereface:loss_m1=2; empty: those that each picture shows best")
    parser.add_argument("--faces", default="", help="folder of your own, <identity>/<image>, for the embeddings: the 8 "
                        "identities with most images, 48 images of each; empty: rendered faces")
    parser.add_argument("--steps", type=positive, default=600, help="steps of 64 images of each toy training")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random, 0 to 4294967295")
    parser.add_argument("--model", default="", help="for angles: PREFIX,EPOCH; 'PREFIX,EPOCH|EPOCH'; or PREFIX for the "
                        "first, middle and last epoch on disk")
    parser.add_argument("--dataset", default="", help="for angles: name or folder of the data set it was trained on")
    parser.add_argument("--images", type=positive, default=2000, help="for angles: most images, drawn at random")
    parser.add_argument("--output", default="losses", help="folder to write losses.html and the pictures to")
    add_device_flags(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    from common.devices import get_devices
    from recognition.loss_angles import parse_cases
    from recognition.loss_report import draw, write_report
    from recognition.toy_embeddings import read_faces

    pictures = draw(args.pictures, parse_cases(args.losses), read_faces(args.faces) if args.faces else None, args.steps,
                    args.seed, args.model, find_dataset(args.dataset).folder if args.dataset else "", args.images,
                    get_devices(device_names(args)), backend=args.backend)
    print(write_report(pictures, args.output))


if __name__ == "__main__":
    run(main)
