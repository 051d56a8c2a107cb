"""Turn PyTorch weights of an iresnet, such as arcface_torch's backbone.pth, into a checkpoint. PyTorch is not needed.

    python recognition/import_torch.py --weights backbone.pth --output models/torch-r50/model

See docs/export.md.
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from common.errors import UserError


def parse_args(args=None):
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True, help="state dict: .pth or .pt of torch.save, .safetensors or .npz")
    parser.add_argument("--network", default="", help="what it is expected to be, such as r50; empty: what it is")
    parser.add_argument("--output", required=True, help="PREFIX of the checkpoint to write: PREFIX-symbol.json and "
                        "PREFIX-0001.params")
    return parser.parse_args(args)


def import_weights(weights, output, network=""):
    """Read PyTorch weights and write them as checkpoint 1 of a prefix.

    weights: path, see `torch_weights.read_tensors`; output: the prefix; network: its expected name, or empty.
    Returns (network name, embedding symbol). Raises UserError for another network, DataError for a file that is none.
    """
    from common import checkpoint
    from recognition import iresnet
    from recognition.torch_weights import read_tensors

    found, symbol, *params = iresnet.convert(read_tensors(weights), weights)
    if network not in ("", found):
        raise UserError(f"{weights}: is {found}, not {network}")
    checkpoint.save(output, 1, symbol, *params)
    return found, symbol


def main():
    """Run the command."""
    args = parse_args()
    network, symbol = import_weights(args.weights, args.output, args.network)
    emb_size = symbol.infer_shape(data=(1, 3, 112, 112))[1][0][1]
    print(f"{args.output},1: {network}, embeddings of {emb_size} dimensions; images are RGB, 0..255")


if __name__ == "__main__":
    run(main)
