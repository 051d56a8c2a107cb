"""What is told of MegaFace scores: lines, the entry of results.json, pictures.

`scores` is always an `eval.megaface.Scores`.
"""
from pathlib import Path

from eval.results import append_record, make_entry, make_trace, picture, record_path, table, write_results


def report_lines(scores, ranks):
    """The lines to print: remarks, then the rates of all results side by side. ranks: to tell at the largest size."""
    raw = scores.results["raw"]
    lines = scores.remarks + [
        f"{name}: {result.probes} probes, {result.pairs} genuine and {result.impostors} impostor pairs, "
        f"{result.distractors} distractors" for name, result in scores.results.items()]
    rows = [("", *scores.results)]
    rows += [(name, *(f"{value:.5f}" for value in values)) for name, values in _rates(scores, ranks)]
    width = max(len(row[0]) for row in rows)
    lines += [row[0].ljust(width) + "".join(value.rjust(10) for value in row[1:]) for row in rows]
    coarse = [f"{point.asked:g}" for point in raw.tar_at_far if point.asked * raw.impostors < 1]
    if coarse:
        lines.append(f"note: {raw.impostors} impostor pairs are too few for FAR {', '.join(coarse)}; the TAR there is "
                     "that of no false accept at all")
    if scores.recall:
        lines.append("index: its recall against exact search, on a sample of the probes: "
                     + ", ".join(f"{rate:.4f} of the nearest {depth}" for depth, rate in scores.recall.items()))
    return lines


def _rates(scores, ranks):
    """Rows (what, [rate of each result]): rank-1 at every size, other ranks at the largest, TAR at every FAR."""
    results = list(scores.results.values())
    sizes, places = results[0].sizes, [1] * len(results[0].sizes)
    sizes, places = sizes + [sizes[-1]] * len(ranks), places + list(ranks)
    rows = {(f"rank-{rank} at {size} distractors"): [result.rate(size, rank) for result in results]
            for size, rank in zip(sizes, places)}
    rows.update((f"TAR at FAR {points[0].asked:g}", [point.tar for point in points])
                for points in zip(*(result.tar_at_far for result in results)))
    return list(rows.items())


def make_figures(scores):
    """The summary: name -> number; refined ones begin with `refined_`."""
    figures = {}
    for name, result in scores.results.items():
        before = "" if name == "raw" else f"{name}_"
        figures.update((f"{before}rank1@{size}", result.rate(size)) for size in result.sizes[::-1])
        figures.update((f"{before}tar@{point.asked:g}", point.tar) for point in result.tar_at_far)
    return figures


def make_tables(scores, ranks):
    """Tables of an entry: the CMC of each result, and the TARs with their thresholds."""
    tables = []
    for name, result in scores.results.items():
        rows = [[size, *(float(result.cmc[place, rank - 1]) for rank in ranks)]
                for place, size in enumerate(result.sizes)]
        tables.append(table(f"CMC, {name}", ["distractors", *(f"rank {rank}" for rank in ranks)], rows,
                            f"share of {result.pairs} pairs of {result.probes} probes; a tie counts against the mate"))
    rows = [[name, *point] for name, result in scores.results.items() for point in result.tar_at_far]
    return tables + [table("TAR at FAR", ["", "asked FAR", "TAR", "FAR", "accepted below squared L2"], rows,
                           "; ".join(f"{name}: {result.impostors} impostor pairs"
                                     for name, result in scores.results.items()))]


def write_report(scores, ranks, output, algo, models=None, files=(), record=""):
    """Write pictures and results.json into a folder, and append the row of the evaluation to a CSV.

    ranks: columns of the CMC tables. algo: what the features are called; models: name -> SHA-256 of what made them.
    files: lists that the evaluation hangs on. record: the CSV; '' for evaluations.csv in the folder.
    Returns the entry, see `eval.results`.
    """
    models = models or {}
    trace = dict(make_trace(files=files), model=" | ".join(models), model_sha256=" ".join(models.values()))
    title = f"MegaFace, {algo}"
    entry = make_entry("megaface", f"{scores.results['raw'].sizes[-1]} distractors", title, make_figures(scores),
                       make_tables(scores, ranks), _write_pictures(scores, title, output), trace,
                       remarks=scores.remarks, index_recall=scores.recall)
    write_results(output, [entry])
    append_record(record_path(record, output), entry)
    return entry


def _write_pictures(scores, title, output):
    from eval import identification_plots, plots  # Matplotlib is slow to load

    captions = {"cmc": "CMC at the largest number of distractors", "sizes": "rank-1 by the number of distractors",
                "roc": "TAR by FAR, up to the laxest FAR asked for"}
    made = []
    for name, caption in captions.items():
        figure = getattr(identification_plots, f"{name}_figure")(scores.results, title)
        plots.save(figure, Path(output, f"megaface_{name}.png"))
        made.append(picture(f"megaface_{name}.png", caption))
    return made
