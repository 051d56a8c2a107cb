"""A model card (Mitchell et al., 2019) and a data sheet (Gebru et al., 2021) of an exported model, as Markdown.

What the training and the evaluations have left on disk is filled in; what only its publisher knows is marked FILL IN.
"""
from pathlib import Path
from typing import List, NamedTuple

from common.checkpoint import parse_model, weights_path
from common.errors import UserError
from common.files import hash_file
from datasets.terms import terms_of
from eval.results import RESULTS, make_trace, read_results
from eval.training_log import LOG, Training, read_settings, read_training
from recognition.parity import LIMIT
from symbols.flops import layers

FILL = "**FILL IN**"
_SETTINGS = ("network", "net_output", "loss", "loss_s", "loss_m1", "loss_m2", "loss_m3", "dataset", "pretrained", "lr",
             "lr_steps", "wd", "mom", "per_batch_size", "max_steps", "epochs", "seed")
_THRESHOLDS = "What a threshold costs"  # the table of that title, which eval/verification.py writes
_INTENDED = f"""\
* Comparing aligned faces: whether two show the same person (1:1), who of a gallery a face is like (1:N).
* By whom, for what, on which people, with what consent: {FILL}"""
_LIMITS = """\
* Input is one face, aligned by five landmarks to the template of training (`common/face_align.py`). Faces found or
  aligned in another way give worse figures than those above.
* The figures hold for the data they were measured on. Errors differ with age, sex, skin, pose, light, camera and
  picture quality; how much is not measured here. Measure on people and cameras of the use before deciding anything.
* A threshold is a trade between strangers accepted and people rejected. It must be chosen on data of the use; in a
  gallery of N people the chance of a wrong match grows about N times.
* It does not tell a living face from a picture of one, and it tells nothing of feelings, character, origin or health.
* An embedding is personal data: it can be compared, and a face can be made up from it. In many countries biometric
  data may be processed only with consent or by special law.
* No decision that weighs on a person should rest on it alone."""


class Evidence(NamedTuple):
    """What is known of a model. training: of its log, or None; settings: of the training, {} where unknown; trace: see
    `eval.results.make_trace`; entries: evaluations of this very model."""

    training: Training
    settings: dict
    trace: dict
    entries: List[dict]


def check_folders(folders):
    """Raise UserError for a folder that is not there."""
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder")


def gather(exported, folders=()):
    """Read what was left beside a model, and in `folders` by the commands in eval/.

    Evaluations count whose results.json names the very parameters, or what was exported of them, by hash. Returns an
    Evidence. Raises UserError for a missing folder, DataError for a damaged file.
    """
    home = Path(parse_model(exported.model)[0]).parent
    check_folders(folders)
    digests = {hash_file(path) for path in (weights_path(exported.model), *exported.files)}
    paths = {path.resolve(): path for folder in (home, *map(Path, folders)) for path in folder.rglob(RESULTS)}
    entries = [entry for path in sorted(paths.values()) for entry in read_results(path)
               if entry["trace"].get("model_sha256") in digests]
    training = read_training(home) if (home / LOG).exists() else None
    return Evidence(training, read_settings(home / "settings.json"), make_trace(exported.model), entries)


def card(exported, evidence):
    """The model card. exported: a `recognition.exporting.Exported`; evidence: an Evidence. Returns Markdown."""
    sections = {"The model": _model(exported, evidence), "Training": _training(evidence), "Figures": _figures(evidence),
                "Thresholds": _thresholds(evidence), "Intended use": _INTENDED,
                "Limits": _LIMITS + _own_limits(exported), "Terms": _terms(evidence)}
    return _page(f"Model card: {_short(exported.model)}", sections)


def data_sheet(exported, evidence):
    """The data sheet of the training data, as Markdown; see `card`."""
    name, asked = evidence.settings.get("dataset", ""), f"{FILL}: "
    title, terms = terms_of(name)
    sections = {
        "Motivation": f"{asked}for what the data were collected, by whom, paid by whom.",
        "Composition": _composition(evidence, name),
        "Collection": f"{asked}where the images come from, over which time, who chose them, whether the people know.",
        "Preparation": "* Images are aligned by five landmarks to one template and stored as JPEG in RecordIO.\n"
                       f"* {asked}the detector, and what was cleaned, merged or dropped (`dropped.csv`, "
                       "`decisions.csv` of the cleaning).",
        "Uses": f"* This model was trained on them.\n* {asked}what they should not be used for.",
        "Distribution": f"* {title}: {terms}.\n* {asked}who may have the data, and whether they may be passed on.",
        "Maintenance": f"{asked}whom to write to, also to have an image taken out; how models are told of it.",
    }
    return _page(f"Data sheet: training data of {_short(exported.model)}", sections)


def _page(title, sections):
    head = f"# {title}\n\nWritten by `recognition/export.py`. Lines marked {FILL} are the publisher's to write.\n"
    return head + "".join(f"\n## {name}\n\n{text}\n" for name, text in sections.items())


def _short(model):
    prefix, epoch = parse_model(model)
    return f"{'/'.join(Path(prefix).resolve().parts[-2:])}, epoch {epoch}"


def _table(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)


def _model(exported, evidence):
    network, height, width = exported.network, *exported.network.image_shape
    found = layers(network.symbol, network.data_shape)
    rows = [("network", evidence.trace["network"] or FILL),
            ("parameters", f"{sum(layer.parameters for layer in found):,}"),
            ("GFLOPs a face", f"{sum(layer.flops for layer in found) / 1e9:.3f}"),
            ("input", f"(N, 3, {height}, {width}) RGB 0..255; pixels are scaled inside"),
            ("output", f"(N, {network.emb_size()}), {'' if exported.normalised else 'not '}L2-normalised"),
            *((path.name, f"SHA-256 `{hash_file(path)}`") for path in exported.files),
            ("exported from", f"{_short(exported.model)}, parameters with SHA-256 `{evidence.trace['model_sha256']}`"),
            ("largest difference to MXNet", f"{exported.difference:.1e} of an embedding's length, on {exported.faces} "
             f"faces (refused above {LIMIT:.0e})"),
            ("exported by", f"commit {evidence.trace['commit'] or 'unknown'}, {_versions(evidence.trace)}")]
    return _table(("what", "value"), rows)


def _versions(trace):
    return ", ".join(f"{name} {version}" for name, version in trace["versions"].items())


def _training(evidence):
    if not evidence.settings:
        return f"Nothing is known of the training: no `settings.json` lies beside the model. {FILL}"
    rows = [(key, evidence.settings[key]) for key in _SETTINGS if evidence.settings.get(key) not in (None, "")]
    lines = [_table(("setting", "value"), rows)]
    if evidence.training:
        start = evidence.training.start
        lines += [f"* {line}" for line in start.get("description", ())]
        trace = start.get("trace", {})
        lines += [f"* {name}: {trace[name]}" for name in ("date", "machine", "commit", "command") if trace.get(name)]
        steps = evidence.training.progress["step"]
        if len(steps):
            lines.append(f"* the log ends at step {steps[-1]:.0f}, loss {evidence.training.progress['loss'][-1]:.4f}")
    return "\n".join([lines[0], "", *lines[1:]])


def _figures(evidence):
    rows = [(entry["protocol"], entry["target"],
             ", ".join(f"{name} {value:.5g}" for name, value in entry["figures"].items() if value is not None),
             entry["trace"].get("date", "")) for entry in evidence.entries]
    if not rows:
        return (f"No evaluation of this model was found. Run `eval/verification.py` and others, and export again with "
                f"`--evaluations FOLDER`. {FILL}")
    return _table(("protocol", "target", "figures", "date"), rows)


def _thresholds(evidence):
    tables = [(entry, table) for entry in evidence.entries for table in entry["tables"]
              if table["title"] == _THRESHOLDS]
    if not tables:
        return f"No verification of this model was found, which would tell what thresholds cost. {FILL}"
    return "\n\n".join(f"{entry['title']}. {table['note']}\n\n{_table(table['columns'], table['rows'])}"
                       for entry, table in tables)


def _own_limits(exported):
    if not exported.shares_batch:
        return ""
    return ("\n* An image's embedding depends a little on the other images of its batch (output option GNAP): embed in "
            "batches of one size.")


def _terms(evidence):
    names = [evidence.settings.get("dataset", "")]
    names += [entry["target"] for entry in evidence.entries]
    rows = [(role, *terms_of(name)) for role, name in zip(["trained on", *["evaluated on"] * len(names)], names)]
    lines = [_table(("use", "data", "terms"), list(dict.fromkeys(rows)))]
    if evidence.settings.get("pretrained"):
        lines.append(f"Training began with the model {evidence.settings['pretrained']}; its terms hold here too. "
                     f"{FILL}")
    return "\n\n".join([*lines, "A model is commonly held to fall under the terms of what it was trained on: one "
                        "trained on research-only data is a research model. The code's licence says nothing of the "
                        f"model's. Licence of the model: {FILL}"])


def _composition(evidence, name):
    start = evidence.training.start if evidence.training else {}
    lines = [line for line in start.get("description", ()) if line.startswith("data set")]
    files = start.get("trace", {}).get("files", {})
    lines += [f"{Path(path).name}: SHA-256 `{digest}`" for path, digest in files.items() if not path.endswith(".bin")]
    lines += [f"{FILL}: what else is in them (`python datasets/doctor.py` tells how many images identities have, of "
              "which size and quality, and what is wrong with them).",
              f"{FILL}: who the people are (age, sex, origin), and how labels were checked."]
    return "\n".join(f"* {line}" for line in [terms_of(name)[0], *lines])
