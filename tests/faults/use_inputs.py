"""Small sound inputs for the commands that put a model to use, hand it on, or start others."""
import json
from pathlib import Path

import inputs


def faces():
    """A model, and two pictures of faces."""
    inputs.model()
    for number, name in enumerate(("first.jpg", "second.jpg")):
        inputs.write(name, inputs.jpeg(number))


def verified(folder="scores"):
    """A results.json as a verification of the model leaves it, with the threshold at a FAR."""
    from common.files import hash_file
    from eval.results import make_entry, write_results

    points = [dict(asked=far, threshold=cosine, enough=enough) for far, cosine, enough in (
        (0.1, 0.3, True), (0.001, 0.6, False))]
    trace = dict(model_sha256=hash_file("net/model-0001.params"), date="2020-01-01")
    write_results(folder, [make_entry("verification", "lfw", "LFW", dict(accuracy=0.75), trace=trace, flip="sum",
                                      model="net/model,1", exact_tar_at_far=points)])


def gallery():
    """The same pictures, and a gallery of people."""
    from common.devices import get_devices
    from recognition.recogniser import Recogniser

    faces()
    inputs.image_folder()
    Recogniser("net/model,1", devices=get_devices("cpu"), image_shape=(inputs.SIDE,) * 2).enrol(
        "people", "known/people.npz", progress=False)


def onnx_model():
    """People, and a model's ONNX file without the model."""
    from recognition.exporting import export

    inputs.image_folder()
    inputs.model()
    export("net/model,1", "onnx", image_shape=(inputs.SIDE,) * 2)
    for name in ("model-symbol.json", "model-0001.params"):
        Path("net", name).unlink()


def trained():
    """A model with all that its training and a verification left, and a pack."""
    from common.files import hash_file

    inputs.model()
    inputs.train_log()
    inputs.results()
    entries = json.loads(Path("scores/results.json").read_text())
    entries[0]["trace"]["model_sha256"] = hash_file("net/model-0001.params")
    inputs.write("scores/results.json", json.dumps(entries, indent=1))
    inputs.pack()


def hosts():
    """A file of hosts, and what stands in for ssh: every process ends well at once."""
    inputs.write("hosts.txt", "# two machines\n127.0.0.1\nme@127.0.0.2  # the second\n")
    inputs.write("programs/ssh", "#!/bin/sh\nexit 0\n")
    Path("programs/ssh").chmod(0o755)
