"""A local web page for comparing pictures of faces, and for searching them in a gallery.

    python recognition/serve.py --model models/r100,1 --detector mtcnn/ --gallery people.npz --threshold 0.3

It answers this machine alone unless --host says otherwise, and never writes a picture to disk. See docs/usage.md.
"""
import os
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from common.flags import positive
from recognition.use_flags import add_model_flags, add_threshold_flags, make_recogniser


def parse_args(args=None):
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--gallery", default=None, metavar="FILE.npz", help="search faces in it (see search.py)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all, so that others reach "
                        "it too, without a password")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0: any that is free")
    parser.add_argument("--allow-host", nargs="+", default=(), metavar="NAME", help="further host names under which it "
                        "is asked for")
    parser.add_argument("--max-pictures", type=positive, default=12, help="pictures in one upload")
    parser.add_argument("--max-megabytes", type=positive, default=64, help="all pictures of an upload together, in MB "
                        "of 2^20 bytes")
    parser.add_argument("--max-megapixels", type=positive, default=40, help="pixels of a picture, in millions")
    parser.add_argument("--faces", type=positive, default=5, help="faces that are taken of each photograph, the main "
                        "one first")
    add_threshold_flags(parser)
    add_model_flags(parser)
    return parser.parse_args(args)


def main():
    """Run the command."""
    args = parse_args()
    # OpenCV's own limit, behind ours: it is read when OpenCV is loaded.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(args.max_megapixels * 10 ** 6))
    from recognition.threshold import UNKNOWN
    from recognition.web_server import FaceServer, Limits

    limits = Limits(args.max_pictures, args.max_megabytes << 20, args.max_megapixels * 10 ** 6, args.faces)
    recogniser = make_recogniser(args, batch_size=1)  # one size of batch for any number of faces: bound once
    with FaceServer(recogniser, args.gallery, args.host, args.port, args.allow_host, limits) as server:
        if not server.is_local():
            print(f"warning: everybody who reaches {args.host} can use this page, over an unencrypted connection and "
                  "without a password", file=sys.stderr)
        print(UNKNOWN if recogniser.threshold is None else f"threshold {recogniser.threshold}")
        print(f"{server.url} (Ctrl-C ends it)", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    run(main)
