"""The report's page: sections of HTML from trainings and evaluations."""
import time
from pathlib import Path

import cv2
import numpy as np

from common.errors import DataError
from common.files import read_bytes
from common.machine import commit
from common.pages import Markup, data_uri, escape, number, page, table
from datasets.images import decode_bgr
from eval import plots

_NAMED = 20  # damaged images that are named
_LARGE, _WIDEST = 200_000, 1250  # bytes from which a picture is encoded anew; pixels that it then has across at most

_STYLE = """
nav ul { padding-left: 1.2rem; margin: .2rem 0; } nav ul ul { columns: 18rem; } nav li { break-inside: avoid; }
.charts { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
.card { background: #fff; border: 1px solid var(--line); border-radius: .4rem; padding: .5rem; }
.card figcaption { color: #5a5a5a; padding: .2rem .3rem; } .card b { color: #222; }
.card svg { width: 100%; } .card svg * { stroke-linejoin: round; } .card img { margin: auto; }
.pictures { grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); } .whole { grid-column: 1 / -1; }
.picture { overflow-x: auto; } .missing { border-left: .3rem solid #d68910; padding-left: .7rem; }
.figures { display: flex; flex-wrap: wrap; gap: .5rem; margin: .8rem 0; }
.figures div { background: var(--band); border-radius: .4rem; padding: .35rem .7rem; }
.figures dt { color: var(--soft); font-size: .78rem; } .figures dd { margin: 0; font-weight: 600; }
.pairs { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .86rem; }
.pairs dt { color: var(--soft); } .pairs dd { margin: 0; }
.settings { display: block; columns: 15rem; } .settings div { break-inside: avoid; }
.settings dt, .settings dd { display: inline; } .settings dd::before { content: " "; }
@media screen and (max-width: 40rem) { .pairs { display: block; } .pairs dd { margin-bottom: .4rem; }
  .picture img { max-width: none; width: 30rem; } .whole img { width: 46rem; } }
@media print { .figures div { border: 1px solid var(--line); } h2 { margin-top: 1.4rem; }
  .charts { grid-template-columns: 1fr 1fr; } }
"""


def make_page(title, trainings, evaluations):
    """The whole page. trainings: list of `eval.training_log.Training`; evaluations: list of (path of results.json,
    entry, see `eval.results`). Returns HTML."""
    parts = [("summary", "Summary", [], _summary(trainings, evaluations))]
    if trainings:
        parts.append(_part("training", "Training", [_short(found.folder) for found in trainings],
                           [_training(found, f"training-{k}") for k, found in enumerate(trainings, 1)]))
    if evaluations:
        parts.append(_part("evaluation", "Evaluations", [entry["title"] for _, entry in evaluations],
                           [_evaluation(path, entry) for path, entry in evaluations]))
    parts.append(("configuration", "Configuration, commands, versions, data", [],
                  "".join(map(_configuration, trainings)) + _traces(evaluations)))
    said = f"{_count(trainings, 'training')}, {_count(evaluations, 'evaluation')}; written " \
           f"{time.strftime('%Y-%m-%d %H:%M')}, commit {commit() or 'unknown'}"
    return page(title, f'<p class="small">{escape(said)}</p>\n{_contents(parts)}' + "".join(
        f'<section id="{name}"><h2>{heading}</h2>\n{body}</section>\n' for name, heading, _, body in parts), _STYLE)


def _count(things, name):
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def _part(name, heading, titles, bodies):
    ids = [f"{name}-{k}" for k in range(1, len(titles) + 1)]
    body = "".join(f'<section id="{id_}"><h3>{escape(title)}</h3>\n{text}</section>\n'
                   for id_, title, text in zip(ids, titles, bodies))
    return f"{name}s", heading, list(zip(ids, titles)), body


def _contents(parts):
    lines = [f'<li>{_link(name, heading)}' + "".join(["<ul>", *(f"<li>{_link(*line)}</li>" for line in inner), "</ul>"]
                                                     if inner else []) + "</li>\n" for name, heading, inner, _ in parts]
    return f'<nav aria-label="contents"><ul>\n{"".join(lines)}</ul></nav>\n'


def _link(name, text):
    return Markup(f'<a href="#{name}">{escape(text)}</a>')


def _short(path):
    """The end of a path that tells models apart."""
    return "/".join(Path(str(path)).parts[-2:])


def _summary(trainings, evaluations):
    text = ""
    if trainings:
        text += "<h3>Trainings</h3>\n" + table(
            ("folder", "network", "loss", "steps", "epoch", "last loss", "last accuracy", "verification at the end"),
            [_training_row(found, f"training-{k}") for k, found in enumerate(trainings, 1)])
    for protocol in dict.fromkeys(entry["protocol"] for _, entry in evaluations):
        chosen = [(k, entry) for k, (_, entry) in enumerate(evaluations, 1) if entry["protocol"] == protocol]
        text += f"<h3>Evaluations: {escape(protocol)}</h3>\n" + _figures_table(chosen)
    return text


def _training_row(found, name):
    last = {key: values[-1] if len(values) else None for key, values in found.progress.items()}
    verified = ", ".join(f"{target} {values['accuracy'][-1]:.4f}" for target, values in found.verification.items())
    return (_link(name, _short(found.folder)), *(found.settings.get(key, "") for key in ("network", "loss")),
            *(None if last[key] is None else int(last[key]) for key in ("step", "epoch")), last["loss"],
            last["accuracy"], verified)


def _figures_table(chosen):
    names = list(dict.fromkeys(name for _, entry in chosen for name in entry["figures"]))
    return table(("target", "model", *names),
                 [(_link(f"evaluation-{k}", entry["target"] or entry["title"]), _short(entry["trace"].get("model", "")),
                   *(entry["figures"].get(name) for name in names)) for k, entry in chosen])


def _grid(figures, kind=""):
    return f'<div class="charts {kind}">\n{"".join(figures)}</div>\n' if figures else ""


def _chart(name, title, curves, ylabel, logarithmic=False):
    """A panel of curves over steps with its title and, in words, their ends and extremes."""
    told = "; ".join(f"{label + ': ' if label else ''}{_course(x, y)}" for label, (x, y, _) in curves.items())
    drawing = plots.svg(plots.curve_figure(curves, ylabel, logarithmic), name).replace(
        "<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
    return f'<figure class="card">{drawing}<figcaption><b>{escape(title)}</b>. {escape(told)}</figcaption></figure>\n'


def _course(steps, y):
    if not np.isfinite(y).any():
        return "not finite"
    low, high = np.nanargmin(y), np.nanargmax(y)
    first, last, low, high = (f"{number(float(y[place]))} (step {steps[place]:,.0f})" for place in (0, -1, low, high))
    return f"{first} to {last}; lowest {low}, highest {high}" if len(y) > 1 else first


def _training(found, name):
    progress, verified = found.progress, found.verification
    steps = progress["step"]
    charts = []
    for key, title, label in (("loss", "Loss", "loss after the margin"), ("accuracy", "Training accuracy", "accuracy"),
                              ("lr", "Learning rate", "learning rate"), ("samples_per_second", "Speed", "samples/s")):
        values = progress[key]
        if len(steps):
            charts.append(_chart(f"{name}-{key}", title, {"": (steps, values, None)}, label,
                                 key == "lr" and values.min() > 0 and values.max() > 5 * values.min()))
    if any(len(values["step"]) > 1 for values in verified.values()):  # one point alone stands in the table
        keys = dict.fromkeys(key for values in verified.values() for key in values)
        for k, key in enumerate(key for key in keys if key not in ("time", "step", "accuracy_std")):
            curves = {target: (values["step"], values[key], values["accuracy_std"] if key == "accuracy" else None)
                      for target, values in verified.items() if key in values}
            charts.append(_chart(f"{name}-verified-{k}", f"Verification: {key}", curves, key))
    return _run_note(found) + _warnings(found) + _grid(charts) + _verification_table(verified) + _checkpoint_note(found)


def _run_note(found):
    times, text = found.progress["time"], ""
    if found.runs > 1:
        text = f"The log holds {found.runs} runs; this is the last, which went back to step " \
               f"{found.start.get('step', 0):,}. "
    if found.resumed:
        steps = ", ".join(f"{step:,}" for step in dict.fromkeys(found.resumed))
        text += f"It was stopped and went on after step {steps}. "
    if len(times):
        minutes = (times[-1] - found.start.get("time", times[0])) / 60
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(times[-1]))
        text += f"{found.progress['step'][-1]:,.0f} steps, the last {minutes:,.1f} minutes after the run's " \
                f"{'start' if found.start else 'first line'}, {until}."
    return f'<p class="small">{escape(text or "No line of progress was logged yet.")}</p>\n'


def _warnings(found):
    """What the training warned of, and the damaged images that it left out."""
    bad, lines = found.bad_images, list(found.warnings)
    if bad:
        more = f" and {len(bad) - _NAMED:,} more" if len(bad) > _NAMED else ""
        lines.append(f"damaged images, in whose place others were read: {len(bad):,}, of record numbers "
                     f"{', '.join(f'{record:.0f}' for record in bad[:_NAMED])}{more}; why stands in train.log")
    return "".join(f'<p class="missing">{escape(line)}</p>\n' for line in lines)


def _verification_table(verified):
    """Accuracies, a row for each step; they are drawn too, and here to be read exactly."""
    steps = sorted({int(step) for values in verified.values() for step in values["step"]})
    known = {target: dict(zip(values["step"].astype(int), values["accuracy"])) for target, values in verified.items()}
    if not steps:
        return ""
    rows = [(f"{step:,}", *(known[target].get(step) for target in known)) for step in steps]
    return "<h4>Verification during the training: accuracy</h4>\n" + table(("step", *known), rows)


def _checkpoint_note(found):
    if not found.checkpoints:
        return '<p class="small">No checkpoint was saved.</p>\n'
    step, path = found.checkpoints[-1]
    return f'<p class="small">{_count(found.checkpoints, "checkpoint")} saved, the last at step {step:,}: ' \
           f'{escape(path)}</p>\n'


def _evaluation(path, entry):
    figures = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(number(value))}</dd></div>"
                      for name, value in entry["figures"].items())
    said = f"{entry['protocol']} on {entry['target']}; model {entry['trace'].get('model') or 'not named'}; {path}"
    text = f'<p class="small">{escape(said)}</p>\n' \
           f'<dl class="figures">{figures}</dl>\n'
    for found in entry["tables"]:
        note = found.get("note", "")
        text += f"<h4>{escape(found['title'])}</h4>\n{table(found['columns'], found['rows'])}" \
                + f'<p class="small">{escape(note)}</p>\n' * bool(note)
    pictures = [_picture(path.parent, found["file"], found["caption"]) for found in entry["pictures"]]
    return text + _grid(pictures, "pictures")


def _picture(folder, file, caption):
    try:
        image, width = _shrunk(folder / file)
    except DataError as error:
        return f'<p class="missing">Missing picture: {escape(caption)} ({escape(error)})</p>\n'
    return (f'<figure class="card{" whole" * (width > _WIDEST)}"><div class="picture"><img alt="{escape(caption)}" '
            f'src="{data_uri(image)}"></div>\n<figcaption>{escape(caption)}</figcaption></figure>\n')


def _shrunk(path):
    """The bytes of a picture, encoded anew where they are many, and its width as it was."""
    encoded = read_bytes(path)
    image = decode_bgr(encoded, path)
    width = image.shape[1]
    if len(encoded) <= _LARGE:
        return encoded, width
    scale = min(1, _WIDEST / width)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
    smaller = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    return min(encoded, smaller, key=len), width


def _configuration(found):
    text = f"<h3>Training {escape(_short(found.folder))}</h3>\n" + _pairs(found.start.get("trace", {}))
    text += "".join(f'<p class="small">{escape(line)}</p>\n' for line in found.start.get("description", ()))
    if not found.settings:
        return text + f'<p class="missing">There is no settings.json in {escape(found.folder)}.</p>\n'
    settings = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>\n"
                       for name, value in sorted(found.settings.items()))
    return text + f'<h4>Settings</h4>\n<dl class="pairs settings">\n{settings}</dl>\n'


def _traces(evaluations):
    """How the evaluations came about; those that differ in their files alone are told together."""
    traces = {}
    for entry in (entry for _, entry in evaluations if entry["trace"]):
        same = {name: value for name, value in entry["trace"].items() if name not in ("date", "files")}
        traces.setdefault(repr(same), []).append(entry)
    text = ""
    for entries in traces.values():
        trace = dict(entries[0]["trace"], files={})
        for entry in entries:
            trace["files"].update(entry["trace"].get("files", {}))
        text += f"<h3>{escape(', '.join(entry['title'] for entry in entries))}</h3>\n" + _pairs(trace)
    return text


def _pairs(trace):
    """A trace as pairs of name and value."""
    rows = []
    for name, value in trace.items():
        if name != "files" and value:
            told = ", ".join(f"{key} {text}" for key, text in value.items()) if isinstance(value, dict) else value
            rows.append(f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(told)}</dd>\n")
    rows += [f"<dt>SHA-256</dt><dd>{escape(digest)} {escape(path)}</dd>\n"
             for path, digest in (trace.get("files") or {}).items()]
    if not rows:
        return '<p class="small">How it came about was not recorded.</p>\n'
    return f'<dl class="pairs">\n{"".join(rows)}</dl>\n'
