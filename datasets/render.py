"""Render the demo data: faces drawn from numbers, to train on, to verify and to identify."""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run


def parse_args():
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--output", default=str(Path(__file__).resolve().parent / "demo"), help="folder to write; data "
                        "in it are replaced")
    parser.add_argument("--identities", type=int, default=200, help="identities to train on")
    parser.add_argument("--images-per-identity", type=int, default=25, help="images of each of them")
    parser.add_argument("--pairs", type=int, default=1500, help="pairs to verify, a multiple of 20")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--sheet", default="", metavar="FILE.png", help="write a contact sheet instead: a row for each "
                        "of 8 identities, a column for each of 10 images")
    return parser.parse_args()


def main():
    """Run the command."""
    args = parse_args()
    from datasets.rendered import write_demo, write_sheet
    if args.sheet:
        write_sheet(args.sheet, seed=args.seed)
        print(f"{args.sheet}: a contact sheet of rendered identities")
        return
    demo = write_demo(args.output, args.identities, args.images_per_identity, args.pairs, args.seed)
    print(f"{demo.folder}/train.rec: {demo.identities} identities, {demo.images} images")
    print(f"{demo.folder}/rendered.bin: {demo.pairs} pairs of other identities, half of them genuine")
    print(f"{demo.folder}/identification: {demo.probes} probes and {demo.distractors} distractors of yet others")


if __name__ == "__main__":
    run(main)
