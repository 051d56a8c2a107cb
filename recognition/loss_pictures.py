"""Pictures of margins: target logits, decision boundaries, what two classes hold on the sphere. No pyplot.

What is drawn is computed by the heads themselves. θ is the angle between an embedding and a class centre, in degrees
here.
"""
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from eval.plots import GENUINE, IMPOSTOR
from recognition import heads
from recognition.loss_angles import Case, head_logits, margins_of_angles, target_curve

NAMES = {  # loss: how a picture calls it, where that is not as it is
    "nsoftmax": "norm-softmax", "arcface": "ArcFace", "cosface": "CosFace", "cm1": "CM1", "cm2": "CM2",
    "sphereface135": "combined margin", "subcenter": "sub-centre ArcFace", "sphereface": "SphereFace",
    "lsoftmax": "L-Softmax", "curricularface": "CurricularFace", "magface": "MagFace", "adaface": "AdaFace",
    "centre": "centre loss",
}
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#222222")
PLAIN = tuple(Case(loss, {}) for loss in ("softmax", "nsoftmax", "sphereface", "cosface", "arcface"))
_LENGTHS = ("large", 1000.0), ("small", 1.0)  # of embeddings, where margins that hang on ‖x‖ are at their ends
_NO_ANNEALING = dict(loss_lambda=0.0, loss_lambda_min=0.0)
_RATIO = 1.3  # of the lengths of two class weights
_FORMS = "cos(m1·θ + m2) − m3", "The angle multiplied: ψ(θ), cos(m·θ)", "Adaptive: by image or by training"


def label(case):
    """What a legend calls a case: the name, its margin, and settings that are not the loss's own."""
    settings = heads.loss_settings(case.loss, **case.settings)
    margins = [name for name in settings if name == "loss_m" or name.startswith("loss_m") and name != "loss_mhe"]
    if {"loss_m1", "loss_m2", "loss_m3"} <= set(margins):
        said = [f"({', '.join(f'{settings[name]:g}' for name in margins)})"]
        said = said * (said != ["(1, 0, 0)"])
    else:
        said = [f"{name[5:]} = {settings[name]:g}" for name in margins]
    said += [f"{name.replace('loss_', '')} = {value}" for name, value in case.settings.items() if name not in margins]
    return f"{NAMES.get(case.loss, case.loss)} {', '.join(said)}".strip()


def _views(case):
    """How a case is drawn: a list of (label, Case, length of the embeddings), the main one first.

    Annealed ones without λ and at its least value; those whose margin hangs on ‖x‖ at both ends.
    """
    settings, name = heads.loss_settings(case.loss, **case.settings), label(case)
    if "loss_lambda" in settings and not {"loss_lambda", "loss_lambda_min"} & set(case.settings):
        return [(f"{name}, no λ", Case(case.loss, dict(case.settings, **_NO_ANNEALING)), 1.0),
                (f"{name}, λ = {settings['loss_lambda_min']:g}", case, 1.0)]
    ends = [target_curve(case, [60.0], length)[0] for _, length in _LENGTHS]
    if np.allclose(*ends, atol=1e-3):
        return [(name, case, 1.0)]
    return [(f"{name}, ‖x‖ {what}", case, length) for what, length in _LENGTHS]


def every_curve():
    """What the picture of curves shows where nothing else is asked for: every loss, a list of Case."""
    beyond = [Case("arcface", dict(loss_beyond=how)) for how in ("line", "easy")]
    return [Case(loss, {}) for loss in heads.LOSSES] + beyond + [Case("sphereface", dict(loss_m1=m)) for m in (2, 3)]


def curves_figure(cases=None):
    """The label's logit, divided by the scale, and how fast it falls, over θ from 0 to 180° (Deng et al., figure 4b).

    cases: list of Case; None: every loss. Returns a matplotlib Figure.
    """
    forms = {}
    for case in cases or every_curve():
        forms.setdefault(_form(case), []).append(case)
    figure = new_figure("The label's logit over its angle, and how fast it falls", (4.5 * len(forms) + 0.4, 9.3))
    grid = figure.subplots(3, len(forms), squeeze=False, gridspec_kw=dict(height_ratios=(4, 3, 2)))
    for column, form in zip(grid.T, sorted(forms, key=_FORMS.index)):
        _draw_curves(column, form, forms[form])
    grid[0, 0].set_ylabel("logit of the label, divided by s (or ‖x‖)")
    grid[1, 0].set_ylabel("its fall with θ, per radian")
    return figure


def _form(case):
    settings = heads.loss_settings(case.loss, **case.settings)
    multiplied = settings.get("loss_m1", 1) != 1 and not settings.get("loss_m2") and not settings.get("loss_m3")
    if multiplied or "loss_lambda" in settings:
        return _FORMS[1]
    return _FORMS[0] if {"loss_m3", "fc7_no_bias"} & set(settings) else _FORMS[2]


def _draw_curves(column, title, cases):
    degrees = np.linspace(0.25, 179.75, 360)
    for axes in column[:2]:
        style(axes)
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.set_xlim(0, 180)
        axes.set_xticks(range(0, 181, 30))
    for names, values, look in _curves(cases, degrees):
        for axes, heights in zip(column, values):
            axes.plot(degrees, heights, label="\n= ".join(names), **look)
    column[0].set_title(title, fontsize=10, loc="left")
    column[0].set_ylim(bottom=max(column[0].get_ylim()[0], -4))
    column[1].set_xlabel("θ to the centre of the own class, in degrees")
    column[2].axis("off")
    column[2].legend(*column[0].get_legend_handles_labels(), loc="upper left", fontsize=8, frameon=False,
                     labelspacing=0.35, borderaxespad=0)


def _curves(cases, degrees):
    """[names, (heights, slope), how to draw it] of each curve; those that are the same are given once."""
    theta, used = np.radians(degrees), []
    curves = [[["no margin: cos θ"], (np.cos(theta), np.sin(theta)), dict(color="0.65", linewidth=4)]]
    for number, case in enumerate(cases):
        for (name, shown, length), line in zip(_views(case), ("-", "--")):
            values = target_curve(shown, degrees, length)
            same = [names for names, known, _ in curves if np.allclose(values[0], known[0], rtol=0, atol=1e-3)]
            if same:
                same[0].append(name)
                continue
            used += [number] * (number not in used)
            colour = PALETTE[used.index(number) % len(PALETTE)]
            curves.append([[name], values, dict(color=colour, linestyle=line, linewidth=1.8,
                                                zorder=3 - len(curves) / 100)])  # the first ones above
    return curves


def new_figure(title, size):
    """An empty figure with its title at the upper left. size: width and height in inches."""
    figure = Figure(figsize=size, constrained_layout=True)
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.02, ha="left")
    return figure


def style(axes):
    """Give axes the look of all pictures: a light grid below the data, no frame above and on the right."""
    axes.grid(color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def every_boundary():
    """The losses whose boundaries are drawn where nothing else is asked for: those of the paper, then all others."""
    return [*PLAIN, *(Case(loss, {}) for loss in heads.LOSSES if Case(loss, {}) not in PLAIN)]


def boundaries_figure(cases=None, columns=4):
    """Who gets an embedding in training, of two classes, by its angles to both (Deng et al., figure 5).

    cases: list of Case; None: every loss; those with the same boundary share a panel. Returns a matplotlib Figure.
    """
    degrees, panels = np.linspace(0, 90, 181), []
    for case in cases or every_boundary():
        views = _views(case)
        maps = [margins_of_angles(shown, degrees, length) for _, shown, length in views]
        unequal = [margins_of_angles(*views[0][1:2], degrees, views[0][2], ratio) for ratio in (_RATIO, 1 / _RATIO)]
        unequal = unequal * (not np.allclose(unequal[0], unequal[1], atol=1e-3))
        same = [panel for panel in panels if len(panel[1]) == len(maps) and len(panel[2]) == len(unequal)
                and np.array_equal(np.array(panel[1]) > 1e-4, np.array(maps) > 1e-4)]
        if same:
            same[0][0] += f"\n= {label(case)}"
        else:
            panels.append([label(case), maps, unequal, [name for name, _, _ in views]])
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure("Decision boundaries of two classes in training", (max(3.1 * columns, 6), 3.5 * rows + 0.6))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(panels):]:
        axes.set_visible(False)
    for axes, panel in zip(grid.flat, panels):
        _draw_boundary(axes, degrees, *panel)
        axes.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("θ2, to class 2, in degrees")
    for axes in grid.flat[max(0, len(panels) - columns):len(panels)]:
        axes.set_xlabel("θ1, to class 1, in degrees")
    return figure


def _draw_boundary(axes, degrees, title, maps, unequal, names):
    """maps: of the views, at [i, j] for θ1 = degrees[i] to the own class and θ2 = degrees[j] to the other."""
    for margin, line in zip(maps, ("-", "--")):
        for values, colour in ((margin.T, GENUINE), (margin, IMPOSTOR)):
            if line == "-":
                axes.contourf(degrees, degrees, values, [0, 1e9], colors=[colour], alpha=0.25)
            axes.contour(degrees, degrees, values, [0], colors=[colour], linestyles=[line], linewidths=1.6)
    for values in unequal:
        axes.contour(degrees, degrees, values.T, [0], colors=["0.35"], linestyles=[":"], linewidths=1.4)
    axes.text(2, 88, "class 1", fontsize=8, va="top", color=GENUINE)
    axes.text(88, 2, "class 2", fontsize=8, ha="right", va="bottom", rotation=90, color=IMPOSTOR)
    if np.interp(65, degrees, np.diag(maps[0])) < -0.1:
        axes.text(65, 65, "margin", fontsize=9, ha="center", va="center", rotation=45, color="0.25")
    told = [f"dotted: one weight {_RATIO:g} times as long"] * bool(unequal) + [
        f"dashed: {name.rpartition(', ')[2]}" for name in names[1:]]
    if told:
        axes.set_title("; ".join(told), fontsize=7.5, loc="left", color="0.25")
    axes.annotate(title, (0, 1), (0, 16 if told else 4), xycoords="axes fraction", textcoords="offset points",
                  fontsize=9, va="bottom")
    axes.set_aspect("equal")
    axes.set_xticks(range(0, 91, 30))
    axes.set_yticks(range(0, 91, 30))


def regions_figure(cases=PLAIN):
    """What two classes hold of the circle and the sphere in training, their centres 90° apart (Liu et al., figure 3).

    cases: list of Case, each drawn at its main view. The weight of class 1 is longer, which only losses feel that do
    not normalise it. Returns a matplotlib Figure.
    """
    figure = new_figure("What two classes hold of the circle and of the sphere in training",
                        (max(2.5 * len(cases), 6), 5.6))
    grid = figure.subplots(2, len(cases), squeeze=False)
    for (circle, sphere), case in zip(grid.T, cases):
        (name, shown, length), = _views(case)[:1]
        circle.set_title(name, fontsize=9)
        _draw_circle(circle, shown, length)
        _draw_sphere(sphere, shown, length)
        for axes in (circle, sphere):
            axes.set_aspect("equal")
            axes.axis("off")
    return figure


def _draw_circle(axes, case, length):
    around = np.linspace(0, 2 * np.pi, 1441)
    circle = np.stack([np.cos(around), np.sin(around)], axis=1)
    axes.scatter(*circle.T, s=16, linewidths=0, c=_holders(case, circle * length))
    for place, centre, colour in zip("12", np.eye(2), (GENUINE, IMPOSTOR)):
        axes.plot(*zip((0, 0), centre * 0.92), color=colour, linewidth=1.5)
        axes.text(*(centre * 0.5 + (0.06, 0.06)), f"class {place}", fontsize=8, color=colour)
    axes.set_xlim(-1.1, 1.1)
    axes.set_ylim(-1.1, 1.1)


def _draw_sphere(axes, case, length, size=280):
    """The half of the sphere that shows both centres, looked at from afar."""
    view = np.array([[-1, 1, 0] / np.sqrt(2), [-0.3, -0.3, np.sqrt(0.82)], [0, 0, 0]])
    view[2] = np.cross(view[0], view[1])
    flat = np.stack(np.meshgrid(*[np.linspace(-1, 1, size)] * 2), axis=2).reshape(-1, 2)
    height = 1 - (flat ** 2).sum(axis=1)
    inside, height = height >= 0, np.sqrt(np.maximum(height, 0))
    points = np.column_stack([flat, height])[inside] @ view
    image = np.ones((size * size, 3))
    image[inside] = 1 - (1 - _holders(case, points * length)) * (0.7 + 0.3 * height[inside])[:, np.newaxis]
    axes.imshow(image.reshape(size, size, 3), origin="lower", extent=(-1, 1, -1, 1), interpolation="bilinear")
    for centre in np.eye(3)[:2]:
        axes.plot(*(view[:2] @ centre), "o", color="white", markersize=5, markeredgecolor="0.2")
    axes.set_xlim(-1.1, 1.1)
    axes.set_ylim(-1.1, 1.1)


def _holders(case, embeddings):
    """The colour of each embedding: of the class that would have it if it were its own, grey where none would."""
    centres = np.eye(2, embeddings.shape[1]) * [[_RATIO], [1.0]]
    first, second = (head_logits(case, embeddings, np.full(len(embeddings), own), centres) for own in (0, 1))
    held = np.stack([first[:, 0] >= first[:, 1], second[:, 1] >= second[:, 0]], axis=1)
    return np.where(held[:, :1], to_rgb(GENUINE), np.where(held[:, 1:], to_rgb(IMPOSTOR), to_rgb("0.85")))
