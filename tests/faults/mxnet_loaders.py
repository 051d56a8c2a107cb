"""What MXNet's own loaders, used as the original uses them, make of the table's damages. Nothing of this project reads.

    python tests/faults/mxnet_loaders.py             # writes results/faults_mxnet.csv

See docs/faults.md.
"""
import os
import pickle
import signal
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent


def load_params(path):
    """mx.nd.load, as mx.model.load_checkpoint calls it."""
    import mxnet as mx

    for array in mx.nd.load(path).values():
        array.wait_to_read()


def load_symbol(path):
    """mx.sym.load, and one image passed through the network."""
    import mxnet as mx

    symbol = mx.sym.load(path)
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=(1, 3, 16, 16))
    executor.forward(is_train=False)[0].asnumpy()


def load_records(path):
    """mx.recordio, every record of the index."""
    import mxnet as mx

    records = mx.recordio.MXIndexedRecordIO(str(Path(path).with_suffix(".idx")), str(Path(path).with_suffix(".rec")),
                                            "r")
    for number in list(records.keys):
        header, image = mx.recordio.unpack(records.read_idx(number))
        if image:
            mx.image.imdecode(image).asnumpy()


def load_pack(path):
    """pickle and mx.image, as the original's verification reads a pack."""
    import mxnet as mx

    with open(path, "rb") as file:
        images, _ = pickle.load(file)
    for image in images:
        mx.image.imdecode(image).asnumpy()


OUTCOMES = ("raised", "went_on", "crashed", "endless", "filled_memory", "ran_its_code", "other")
LIMITS = dict(cpu=10, wall=30)  # seconds; a sound file takes less than one
_SEGMENTATION = 255  # the exit code of MXNet's own handler of segmentation faults
LOADERS = dict(params=load_params, symbol=load_symbol, records=load_records, pack=load_pack)


def main():
    """Load a file as a command does; whatever Python can catch ends in one line."""
    from common.errors import UserError

    kind, path = sys.argv[1:]
    try:
        LOADERS[kind](path)
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}") from error


def outcome(trial, why):
    """What came of a trial, in a word or two. why: of the judge."""
    if trial.signal:
        return "endless" if trial.signal in (signal.SIGXCPU, signal.SIGKILL) else "crashed"
    for starts, name in (("memory", "filled_memory"), ("code in", "ran_its_code")):
        if why.startswith(starts):
            return name
    return {0: "went_on", 2: "raised", _SEGMENTATION: "crashed"}.get(trial.code, "other")


def lines():
    """What is tried: (name of the loader, key of LOADERS, file, its form, what makes it)."""
    import inputs
    from data_forms import PACK, RECORDS
    from model_forms import PARAMS, SYMBOL
    from text_forms import INDEX

    return [("mx.nd.load", "params", "net/model-0001.params", PARAMS, inputs.model),
            ("mx.sym.load, simple_bind, forward", "symbol", "net/model-symbol.json", SYMBOL, inputs.model),
            ("mx.recordio, mx.image", "records", "trainset/train.rec", RECORDS, inputs.training_set),
            ("mx.recordio, mx.image", "records", "trainset/train.idx", INDEX, inputs.training_set),
            ("pickle, mx.image", "pack", "pairs.bin", PACK, inputs.pack)]


def measure(stand, called, kind, path, form, make):
    """Try all damages of a file. Returns a row of the table."""
    from commands import Command, Reads
    from table import OUTPUT

    command = Command(f"mxnet_loaders.py {kind} {path}", (make,), (Reads(path, form),), ())
    if [verdict for _, verdict, _ in stand.good([command])] != ["accepted"]:
        raise RuntimeError(f"{called} fails with good input")
    cases = (case._replace(limits=LIMITS) for case in stand.cases(command) if case.kind != OUTPUT)
    counts = Counter(outcome(trial, why) for _, trial, _, why in stand.run(cases))
    return dict(loader=called, file=Path(path).name, damages=sum(counts.values()),
                **{name: counts[name] for name in OUTCOMES})


def run_all():
    """Write results/faults_mxnet.csv."""
    import table
    import trial

    trial.import_all()
    from benchmarks.measure import write_table

    with table.scratch() as folder:
        write_table("faults_mxnet", [measure(table.Stand(folder, 2), *line) for line in lines()])


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[0] = str(HERE.parents[1])
    sys.path.insert(0, str(HERE))
    run_all()
