"""What benchmarks/paper.py writes of a table: CSV, Markdown and a plot, the paper's figures beside, marked as such."""
import statistics
from typing import Dict, List, NamedTuple, Optional

import numpy as np

from common.files import write_csv, write_text

PAPER = " (paper)"


def residual_deviation(values):
    """What is left of the deviation of values (rows, seeds) without what each row and each seed adds.

    Losses go on from one training for a seed, and those of a lucky one are better together: a randomised complete block
    design, sqrt(Σe²/((R−1)(S−1))). None where there is one seed or one row.
    """
    values = np.array(values, np.float64)
    if min(values.shape, default=0) < 2:
        return None
    errors = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    return (np.square(errors).sum() / np.prod(np.subtract(values.shape, 1))) ** 0.5


def least_difference(deviation, seeds):
    """Below this two means over so many seeds differ by no more than seeds do: two standard errors of a difference."""
    return 2 * deviation * (2 / seeds) ** 0.5


def summarise(name, table, data, found, flags):
    """The rows of the CSV.

    found: row's name -> [(column -> figure, steps)] of each seed; flags: callable of a Row. Each column has mean,
    deviation and the paper's figure; `apart` says of the first how far it is from the reference, or that this is noise.
    """
    from benchmarks.measure import spread
    from common.machine import machine

    known = {row.name: row for row in table.rows}
    measured = list(dict.fromkeys(column for runs in found.values() for figures, _ in runs for column in figures))
    printed = list(dict.fromkeys(column for row in table.rows for column in row.paper))
    rows, first = [], beside(table, found, measured[0])
    for row, runs in found.items():
        line = dict(table=name, row=row, flags=" ".join(flags(known[row])), data=data, steps=runs[0][1] or "recipe",
                    seeds=len(runs), apart="reference" if row == table.reference else first.say(row))
        for column in dict.fromkeys(measured + printed):
            values = [figures[column] for figures, _ in runs if column in figures]
            mean, deviation = spread(values) if values else ("", "")
            line.update({column: _number(mean), f"{column} deviation": _number(deviation if len(values) > 1 else ""),
                         column + PAPER: known[row].paper.get(column, "")})
        rows.append(dict(line, machine=machine()))
    return rows


def _number(value):
    return value if value == "" else f"{value:.2f}"


class _Beside(NamedTuple):
    """How rows stand to the reference row in a column.

    values: row's name -> the figures of its seeds; base: the reference row's mean, None where it has none; width: how
    far from it is noise, None where no row has two seeds.
    """

    values: Dict[str, List[float]]
    base: Optional[float]
    width: Optional[float]

    def say(self, row):
        """'+1.20', or 'noise' where seeds differ by as much; empty where there is nothing to compare."""
        if self.base is None or not self.values[row]:
            return ""
        difference = statistics.mean(self.values[row]) - self.base
        if self.width is None:
            return "one seed"
        return "noise" if abs(difference) < self.width else f"{difference:+.2f}"


def beside(table, found, column):
    """The _Beside of a column. found: see `summarise`."""
    values = {row: [figures[column] for figures, _ in runs if column in figures] for row, runs in found.items()}
    most = max(map(len, values.values()))
    deviation = residual_deviation([row for row in values.values() if len(row) == most])
    base = values.get(table.reference)
    return _Beside(values, statistics.mean(base) if base else None,
                   least_difference(deviation, len(base)) if base and deviation is not None else None)


def _columns(rows):
    return [key[:-len(PAPER)] for key in rows[0] if key.endswith(PAPER)]


def markdown(table, rows):
    """The table as Markdown: ours as mean ± deviation, the paper's in italics."""
    cells = [cell for name in _columns(rows)
             for cell in ((name, _ours, name), (f"*{name}, printed*", _printed, name + PAPER))
             if any(row[cell[2]] != "" for row in rows)]
    steps = sorted({row["steps"] for row in rows})
    if len(steps) > 1:  # rows of the same minutes
        cells.insert(0, ("steps", _plain, "steps"))
    head = ["row", *(title for title, *_ in cells), "beside the reference"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        lines.append([row["row"], *(show(row, key) for _, show, key in cells), row["apart"]])
    return "".join((
        f"**{table.title}**\n\n", *(f"| {' | '.join(line)} |\n" for line in lines),
        f"\nOurs: data `{rows[0]['data']}`, seeds: {rows[0]['seeds']}, {_length(steps)}, on {rows[0]['machine']}. "
        f"Reference: {table.reference}. Italics: printed in the source ({table.source}), of its data and networks;"
        " what was trained here stands in the column `flags` of the CSV file.\n"))


def _length(steps):
    if steps == ["recipe"]:
        return "the paper's schedule"
    return f"{steps[0]} steps" if len(steps) == 1 else f"{steps[0]} to {steps[-1]} steps"


def _plain(row, key):
    return str(row[key])


def _ours(row, column):
    deviation = row[f"{column} deviation"]
    return f"{row[column]} ± {deviation}" if deviation else row[column]


def _printed(row, key):
    return f"*{row[key]}*" if row[key] != "" else ""


def draw(table, rows, found, path):
    """Draw the first column: every seed's figure and their mean; beside it, on a scale of its own, what is printed, of
    another column where it is of less than half of the rows."""
    from matplotlib.figure import Figure

    from eval.plots import GENUINE, IMPOSTOR, save

    names = _columns(rows)
    column = next(name for name in names if any(row[name] for row in rows))
    printed = next((name for name in (column, *names)
                    if 2 * sum(row[name + PAPER] != "" for row in rows) >= len(rows)), column)
    first = beside(table, found, column)
    figure = Figure(figsize=(9, 1.3 + 0.3 * len(rows)), layout="constrained")
    ours, paper = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for place, row in enumerate(rows):
        values = first.values[row["row"]]
        ours.plot(values, [place] * len(values), "o", color=GENUINE, alpha=0.35, markersize=5)
        ours.plot(float(row[column] or "nan"), place, "|", color=GENUINE, markersize=14, markeredgewidth=2)
        paper.plot(float(row[printed + PAPER] or "nan"), place, "D", color=IMPOSTOR, markersize=5)
    if first.width:  # where means differ from the reference's by no more than seeds do
        ours.axvspan(first.base - first.width, first.base + first.width, color="0.9", zorder=0)
    ours.set(yticks=range(len(rows)), yticklabels=[row["row"] for row in rows], title=f"here: {rows[0]['data']}",
             xlabel=f"{column}: seeds, and their mean")
    paper.set(title=f"printed ({table.source})", xlabel=f"{printed}; other data and networks")
    ours.set_ylim(len(rows) - 0.5, -0.5)  # the first on top
    for axes in (ours, paper):
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(table.title, fontsize=10)
    save(figure, path)


def write(name, table, data, found, flags):
    """Write results/paper_<name>.csv, .md and .png. found, flags: see `summarise`. Returns the paths."""
    from benchmarks.measure import RESULTS

    rows = summarise(name, table, data, found, flags)
    path = RESULTS / f"paper_{name}.csv"
    write_csv(path, rows)
    write_text(path.with_suffix(".md"), markdown(table, rows))
    draw(table, rows, found, path.with_suffix(".png"))
    return [path, path.with_suffix(".md"), path.with_suffix(".png")]
