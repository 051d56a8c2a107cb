"""Make the verification pack of a protocol from its official list and a folder of aligned images.

    python datasets/build_eval_pack.py --protocol cfp_fp --data-dir cfp-dataset --output datasets/faces_emore/cfp_fp.bin

Layouts and lists are described in docs/verification-packs.md. ytf compares videos: --output is then a folder, a
template set. For a list of your own, see datasets/pairs2pack.py.
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run


def parse_args():
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--protocol", required=True, help="lfw, cfp_ff, cfp_fp, agedb_30, calfw, cplfw or ytf")
    parser.add_argument("--data-dir", required=True, help="folder of the images, in the official layout")
    parser.add_argument("--output", required=True, help="pack to write, such as cfp_fp.bin; for ytf a new folder")
    parser.add_argument("--list", help="the official list (for cfp_ff and cfp_fp its folder Protocol); not given: in "
                        "--data-dir, under its official name")
    parser.add_argument("--image-size", default="112,112", help="height,width that every image must have, in pixels")
    parser.add_argument("--skip-missing", action="store_true", help="leave out pairs of which an image is missing; "
                        "figures are then not comparable with published ones")
    parser.add_argument("--max-frames", type=int, help="frames to take of a video, evenly spaced (ytf alone); not "
                        "given: all")
    return parser.parse_args()


def main():
    """Run the command."""
    args = parse_args()
    from datasets.eval_packs import build_eval_pack
    from datasets.images import parse_image_size
    from datasets.pairs import describe_pairs
    built = build_eval_pack(args.protocol, args.data_dir, args.output, args.list, parse_image_size(args.image_size),
                            args.skip_missing, args.max_frames)
    print(f"{args.output}: {describe_pairs(built.pairs)}")
    if any(built.left_out):
        print(f"left out for missing images (listed in {args.output}.missing.txt): {sum(built.left_out)} pairs; of "
              f"each fold: {', '.join(map(str, built.left_out))}. Figures of this pack are not comparable with those "
              "of the whole protocol, and folds are cut at other places")


if __name__ == "__main__":
    run(main)
