"""Pictures of embeddings: two- and three-dimensional ones as they are, and angles at moments of a training."""
import numpy as np

from eval.plots import GENUINE, IMPOSTOR
from recognition.loss_angles import class_angles, unit
from recognition.loss_pictures import PALETTE, label, new_figure, style


def circle_figure(toys, images):
    """Two-dimensional embeddings: above as they are, below by their direction (Liu et al., 2017, figure 2).

    toys: list of Toy, two-dimensional; images: what they were trained on, (N, 3, H, W). Returns a matplotlib Figure.
    """
    return _figure("Two-dimensional embeddings, and their directions", toys, images, _draw_plane, _draw_circle, 1)


def sphere_figure(toys, images):
    """Directions of three-dimensional embeddings, and below the angles of all pairs (Liu et al., 2017, figure 5).

    toys: list of Toy, three-dimensional; images: what they were trained on, (N, 3, H, W). Returns a matplotlib Figure.
    """
    return _figure("Three-dimensional embeddings: directions, and angles of pairs", toys, images, _draw_sphere,
                   _draw_pairs, 0.5)


def _figure(title, toys, images, upper, lower, height):
    columns = min(len(toys), 3)
    rows = -(-len(toys) // columns)
    figure = new_figure(title, (max(3.5 * columns, 6), rows * (3.5 + 3.2 * height) + 1.6))
    grid = figure.add_gridspec(2 * rows + 1, columns, height_ratios=[1, height] * rows + [0.25])
    for number, toy in enumerate(toys):
        row, column = divmod(number, columns)
        above = figure.add_subplot(grid[2 * row, column], projection="3d" if upper is _draw_sphere else None)
        upper(above, toy)
        above.set_title(_title(toy), fontsize=9)
        lower(figure.add_subplot(grid[2 * row + 1, column]), toy)
    _draw_faces(figure.add_subplot(grid[-1, :]), images, toys[0].labels)
    return figure


def _title(toy):
    own, other = class_angles(toy.moments["end"][0], toy.labels, toy.moments["end"][1], max(toy.labels) + 1)
    mild = toy.settings.get("loss_s") and "loss_s" not in toy.case.settings
    scale = f", s {toy.settings['loss_s']:g}" if mild else ""
    return (f"{label(toy.case)}{scale}\ntraining accuracy {np.mean(own < other):.1%}\n"
            f"θ: own class {own.mean():.1f}°, nearest other {other.mean():.1f}°")


def _colours(labels):
    return [PALETTE[number % len(PALETTE)] for number in labels]


def _centres(toy):
    """Unit class centres, each with its colour."""
    centres = unit(toy.moments["end"][1])
    return zip(centres, _colours(np.arange(len(centres)) * (max(toy.labels) + 1) // len(centres)))


def _draw_plane(axes, toy):
    style(axes)
    _draw_flat(axes, toy, toy.moments["end"][0])
    axes.set_xlabel("first dimension", fontsize=8)
    axes.set_ylabel("second dimension", fontsize=8)


def _draw_circle(axes, toy):
    around = np.linspace(0, 2 * np.pi, 361)
    axes.plot(np.cos(around), np.sin(around), color="0.75", linewidth=1, zorder=1)
    axes.axis("off")
    _draw_flat(axes, toy, unit(toy.moments["end"][0]))


def _draw_flat(axes, toy, points):
    reach = np.linalg.norm(points, axis=1).max()
    for centre, colour in _centres(toy):
        axes.plot(*zip((0, 0), centre * reach), color=colour, linewidth=0.8, zorder=1)
    axes.scatter(*points.T, s=8, c=_colours(toy.labels), alpha=0.6, linewidths=0, zorder=2)
    axes.set_xlim(-1.08 * reach, 1.08 * reach)
    axes.set_ylim(-1.08 * reach, 1.08 * reach)
    axes.set_aspect("equal")
    axes.tick_params(labelsize=8)


def _draw_sphere(axes, toy):
    across, down = np.meshgrid(np.linspace(0, 2 * np.pi, 25), np.linspace(0, np.pi, 13))
    axes.plot_wireframe(np.cos(across) * np.sin(down), np.sin(across) * np.sin(down), np.cos(down), color="0.88",
                        linewidth=0.4)
    for centre, colour in _centres(toy):
        axes.plot(*zip((0, 0, 0), centre), color=colour, linewidth=1)
    axes.scatter(*unit(toy.moments["end"][0]).T, s=8, c=_colours(toy.labels), linewidths=0)
    axes.set_box_aspect((1, 1, 1), zoom=1.8)
    axes.set_axis_off()


def _draw_pairs(axes, toy):
    """The angles of all pairs of embeddings, each kind by its own shares."""
    points = unit(toy.moments["end"][0])
    rows = np.triu_indices(len(points), 1)
    angles = np.degrees(np.arccos(np.clip((points @ points.T)[rows], -1, 1)))
    same = np.equal.outer(toy.labels, toy.labels)[rows]
    _draw_shares(axes, (angles[same], angles[~same]), ("same identity", "different"), 4)
    axes.legend(fontsize=7.5, frameon=False)
    axes.set_xlabel("angle of two embeddings, in degrees", fontsize=8)
    axes.set_ylabel("share, per 4°", fontsize=8)
    axes.tick_params(labelsize=8)


def _draw_shares(axes, kinds, labels, step):
    """Two histograms over 0 to 180°, each as shares of its own kind."""
    style(axes)
    edges = np.arange(0, 181, step)
    for angles, name, colour in zip(kinds, labels, (GENUINE, IMPOSTOR)):
        share = np.histogram(angles, edges)[0] / max(1, len(angles))
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.35)
        axes.stairs(share, edges, color=colour, linewidth=1.4, label=name)
    axes.set_xlim(0, 180)
    axes.set_xticks(range(0, 181, 30))
    axes.set_ylim(bottom=0)


def _draw_faces(axes, images, labels):
    """One face of each identity, framed in its colour."""
    faces = [images[np.flatnonzero(labels == number)[0]].transpose(1, 2, 0) for number in range(max(labels) + 1)]
    for number, (face, colour) in enumerate(zip(faces, _colours(range(len(faces))))):
        axes.fill_between((number, number + 1), 0, 1, color=colour, linewidth=0, zorder=1)
        axes.imshow(face, extent=(number + 0.08, number + 0.92, 0.08, 0.92), interpolation="bilinear", zorder=2)
    axes.set_xlim(-0.1, len(faces) + 0.1)
    axes.set_ylim(-0.1, 1.1)
    axes.set_aspect("equal")
    axes.axis("off")


def angles_figure(moments, title="Angles between embeddings and class centres"):
    """Histograms of θ at several moments of a training, one below the other (Deng et al., 2019, figure 4a).

    moments: dict name -> (angles to the centre of the own class (N,), to the nearest other centre (N,)), in degrees,
    as `class_angles` gives them. Returns a matplotlib Figure.
    """
    figure = new_figure(title, (8.4, 1.0 + 1.9 * len(moments)))
    grid = figure.subplots(len(moments), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (name, angles) in zip(grid, moments.items()):
        names = [f"{what}:\nmean {kind.mean():.1f}°, deviation {kind.std():.1f}°"
                 for what, kind in zip(("own class", "nearest other"), angles)]
        _draw_shares(axes, angles, names, 2)
        right = f"{np.mean(angles[0] < angles[1]):.1%} of {len(angles[0])} images nearest to their own centre"
        axes.set_title(f"{name}: {right}", loc="left", fontsize=9.5)
        axes.set_ylabel("share, per 2°", fontsize=9)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8.5,
                    title="θ to the centre of the", title_fontsize=8.5)
    grid[-1].set_xlabel("θ in degrees")
    return figure
