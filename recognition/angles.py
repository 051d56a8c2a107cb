"""The angle statistics of the ArcFace paper's table 3: how tight classes are under a model and how far apart.

    python recognition/angles.py --model models/y1-arcface-emore/model,1 --dataset emore --output angles
    python recognition/angles.py --model models/r100,1 --others lfw/images --output angles

W-EC, W-Inter, Intra1 and Inter1 are of the training set, the first two of a checkpoint that was saved with its head
(recognition/train.py --ckpt-embedding 0); Intra2 and Inter2 of other people. All are mean angles in degrees. What
recognition.angle_statistics.angle_statistics does; see docs/losses.md.
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from common.files import check_writable
from common.flags import add_device_flags, device_names, positive
from datasets.images import parse_image_size
from eval.results import RESULTS, add_record_flag, append_record, record_path, write_results


def parse_args(args=None):
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="PREFIX,EPOCH of a checkpoint")
    parser.add_argument("--dataset", default="", help="name or folder of the data set that it was trained on")
    parser.add_argument("--others", default="", metavar="FOLDER", help="<person>/<image>, aligned images of people who "
                        "were not in training, such as LFW's")
    parser.add_argument("--images", type=int, default=0, help="images of each set at most, of identities drawn at "
                        "random; among fewer identities the nearest is farther, so that Inter grows; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="seed of that draw, 0 to 4294967295")
    parser.add_argument("--flip", action="store_true", help="add the embedding of the mirrored image")
    parser.add_argument("--image-size", default="112,112", help="height,width of the images of --others in pixels, "
                        "where no --dataset tells it")
    parser.add_argument("--batch-size", type=positive, default=64, help="images that a device embeds at once")
    parser.add_argument("--output", required=True, help="folder for results.json")
    add_record_flag(parser)
    add_device_flags(parser)
    return parser.parse_args(args)


def main():
    """Run the command."""
    args = parse_args()
    from common.devices import get_devices
    from recognition.angle_statistics import angle_statistics, as_entry, lines

    check_writable(Path(args.output, RESULTS))
    sets = dict(model=args.model, dataset=args.dataset, others=args.others)
    drawn = dict(images=args.images, seed=args.seed, flip=args.flip)
    statistics = angle_statistics(**sets, **drawn, devices=get_devices(device_names(args)), batch_size=args.batch_size,
                                  image_shape=parse_image_size(args.image_size), backend=args.backend)
    print("\n".join(lines(statistics)))
    entry = as_entry(statistics, **sets, **drawn)
    write_results(args.output, [entry])
    append_record(record_path(args.record, args.output), entry)
    print(f"results.json: {args.output}")


if __name__ == "__main__":
    run(main)
