"""Drop the noise of a training set: images far from the dominant sub-centre of their identity.

    python recognition/drop.py --model ./models/r100-subcenter-emore/model,1 --dataset emore --output datasets/clean

The model must have been trained on that data set and saved with its head, for instance by
recognition/train.py --loss subcenter --ckpt-embedding 0. What recognition.cleaning.drop_noise does.
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from common.flags import add_device_flags, device_names, positive


def parse_args(args=None):
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="PREFIX,EPOCH of a checkpoint with its head")
    parser.add_argument("--dataset", required=True, help="name of a data set, or a folder with train.rec")
    parser.add_argument("--output", required=True, help="folder for the cleaned set, which must be new")
    parser.add_argument("--angle", type=float, default=75.0, help="the greatest angle to the dominant sub-centre that "
                        "is kept, in degrees")
    parser.add_argument("--batch-size", type=positive, default=64, help="images that a device embeds at once")
    add_device_flags(parser)
    return parser.parse_args(args)


def main():
    """Run the command."""
    args = parse_args()
    from common.devices import get_devices
    from recognition.cleaning import drop_noise, summary

    cleaning = drop_noise(args.model, args.dataset, args.output, args.angle, get_devices(device_names(args)),
                          args.batch_size, backend=args.backend)
    print("\n".join(summary(cleaning)))


if __name__ == "__main__":
    run(main)
