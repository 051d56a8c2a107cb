"""The doctor's page: one HTML file with its pictures inside."""
import io
from contextlib import closing, contextmanager

import cv2
import numpy as np
from matplotlib.figure import Figure

from common.errors import DataError
from common.files import write_text
from common.pages import data_uri, escape, page, table
from datasets.findings import KINDS
from datasets.images import decode_bgr
from datasets.measure import BLANK, GOOD
from datasets.recordio import RecordReader
from datasets.statistics import SHARES, images_per_identity, quantiles

_COLOR = "#0072B2"
_PAIRS, _SINGLES = 12, 8  # thumbnails of a kind

_STYLE = """
.verdict { padding: .6rem .9rem; border-radius: .4rem; font-weight: 600; color: #222; }
.bad { background: #fbe3e0; } .good { background: #e0f3e4; }
.finding { border-left: .3rem solid #bbb; padding: .1rem 0 .1rem .8rem; margin: .9rem 0; break-inside: avoid; }
.error { border-color: #c0392b; } .warning { border-color: #d68910; } .finding p { margin: .15rem 0; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.charts img { width: 100%; } .faces { display: flex; flex-wrap: wrap; gap: .8rem; }
.faces img { display: inline; width: 6rem; height: 6rem; object-fit: contain; background: #eee; }
figcaption { max-width: 12rem; }
"""


def write_report(path, title, found, findings, lines):
    """Write the page, whole or not at all.

    found: SetExamination or PackExamination; findings: Findings; lines: figures in words.
    """
    errors = sum(findings.counts[kind] for kind in findings.kinds("error"))
    warnings = sum(findings.counts[kind] for kind in findings.kinds("warning"))
    told = "".join(_finding(kind, findings) for kind in findings.kinds()) or "<p>Nothing was found.</p>"
    figures = "".join(f"<p>{escape(line)}</p>" for line in lines) + table(
        ("", *SHARES, "mean"), [(name, *map(float, values)) for name, values in quantiles(found).items()])
    mood = "bad" if errors else "good"
    write_text(path, page(title, f"""<p class="verdict {mood}">{errors} errors, {warnings} warnings</p>
<h2>Findings</h2>{told}
<h2>Figures</h2>{figures}
<div class="charts">{''.join(_charts(found))}</div>
{''.join(_faces(found))}""", _STYLE))


def _finding(kind, findings):
    severity, title, remedy = KINDS[kind]
    count, few = findings.counts[kind], findings.first[kind]
    told = "; ".join(f"{where}: {message}" for where, message in few) + ("; …" if count > len(few) else "")
    return (f'<div class="finding {severity}"><p><b>{count}</b> {escape(title)}</p><p class="small">'
            f'{escape(told)}</p><p class="small">{severity}; --fix: {escape(remedy)}</p></div>')


def _charts(found):
    good = found.rows[found.rows["state"] == GOOD]
    columns = {"bytes per image": good["bytes"], "brightness (mean grey level)": good["brightness"],
               "sharpness (variance of the Laplacian)": good["sharpness"]}
    if hasattr(found, "heads"):
        columns = {"images per identity": images_per_identity(found), **columns}
    for name, values in columns.items():
        if len(values):
            yield f'<img alt="histogram of {name}" src="{_histogram(name, values)}">'


def _histogram(name, values):
    figure = Figure(figsize=(4.6, 2.7), constrained_layout=True)
    axes = figure.add_subplot()
    low, high = float(values.min()), float(np.quantile(values, 0.999))
    whole = values.dtype.kind in "iu"
    step = max(1, np.ceil((high - low + 1) / 50)) if whole else max((high - low) / 50, 1e-6)
    edges = np.arange(low, high + 2 * step, step) - (0.5 if whole else 0)
    axes.hist(np.minimum(values, high), edges, color=_COLOR)
    axes.set_xlabel(name + (", the highest 0.1 % in the last bar" if values.max() > high else ""), fontsize=8)
    axes.set_ylabel("identities" if name == "images per identity" else "images", fontsize=8)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130)
    return data_uri(data.getvalue())


def _faces(found):
    """The sections of thumbnails."""
    with _reader(found) as read:
        yield from _sections(found, read)


def _sections(found, read):
    for kind, pairs in found.pairs.items():
        if len(pairs):
            pictures = "".join(_figure(found, places, read) for places in pairs[:_PAIRS])
            yield _section(f"{KINDS[kind].title.capitalize()}: {len(pairs)}", pictures)
    rows = found.rows
    seen = np.unique(np.where(rows["state"] == GOOD, rows["content"], 0), return_index=True)[1]
    seen = seen[(rows["state"][seen] == GOOD) & (rows["contrast"][seen] >= BLANK)]
    for title, column, sign in (("Darkest", "brightness", 1), ("Brightest", "brightness", -1),
                                ("Least sharp", "sharpness", 1)):
        order = seen[np.argsort(sign * rows[column][seen], kind="stable")[:_SINGLES]]
        if len(order):
            yield _section(f"{title} images", "".join(_figure(found, [place], read) for place in order))


def _section(title, pictures):
    return f'<h2>{escape(title)}</h2><div class="faces">{pictures}</div>'


@contextmanager
def _reader(found):
    """Give a function place in rows -> encoded image."""
    if not hasattr(found, "heads"):
        yield found.images.__getitem__
        return
    with closing(RecordReader(found.folder / "train.rec")) as reader:
        yield lambda place: reader.read(int(found.rows["offset"][place]), int(found.rows["number"][place]))[1]


def _figure(found, places, read):
    pictures = "".join(f'<img alt="" src="{_thumbnail(read, place)}">' for place in places)
    return f"<figure>{pictures}<figcaption>{escape(_caption(found, places))}</figcaption></figure>"


def _thumbnail(read, place):
    try:
        image = decode_bgr(read(place), "")
    except DataError:
        return data_uri(b"")
    return data_uri(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())


def _caption(found, places):
    if hasattr(found, "heads"):
        told = [f"{found.rows['number'][place]} (class {found.labels[place]})" for place in places]
        return f"record{'s' * (len(places) > 1)} " + ", ".join(told)
    if len(places) > 1:
        return f"pair {places[0] // 2}"
    return f"image {places[0]}"
