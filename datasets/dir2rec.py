"""Make a training set (train.rec, train.idx, property) of a folder with a sub-folder of images for each identity."""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run


def parse_args():
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True, help="folder with <identity>/*.jpg, jpeg, png, bmp or webp")
    parser.add_argument("--output", required=True, help="folder to write; a training set in it is replaced")
    parser.add_argument("--image-size", default="112,112", help="height,width of every image, in pixels")
    parser.add_argument("--quality", type=int, default=95, help="quality of JPEGs that are encoded anew, 1 to 100")
    parser.add_argument("--resize", action="store_true", help="bring images of another size to --image-size, "
                        "aspect ratio kept, what juts out cut off; without it they are an error")
    parser.add_argument("--skip-bad", action="store_true", help="leave out and name what cannot be decoded")
    parser.add_argument("--min-images", type=int, default=1, help="leave out identities with fewer images than this")
    return parser.parse_args()


def main():
    """Run the command."""
    args = parse_args()
    from datasets.identity_folder import pack_folder
    from datasets.images import parse_image_size
    made = pack_folder(args.input, args.output, parse_image_size(args.image_size), args.quality, args.resize,
                       args.skip_bad, args.min_images)
    for message in made.skipped:
        print(f"skipped {message}")
    if made.left_out:
        print(f"left out, with fewer than {args.min_images} images: {', '.join(made.left_out)}")
    print(f"{args.output}: {len(made.identities)} identities, {sum(count for _, count in made.identities)} images; "
          f"skipped {len(made.skipped)} unreadable images, left out {len(made.left_out)} identities")


if __name__ == "__main__":
    run(main)
