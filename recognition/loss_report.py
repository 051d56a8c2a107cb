"""The report on losses: its pictures, drawn and told, and the page that holds them."""
from collections import namedtuple
from pathlib import Path

from tqdm import tqdm

from common.errors import UserError, unknown_name
from common.files import replacing, write_text
from common.pages import escape, page
from eval.verification import find_models
from recognition import embedding_pictures, loss_pictures
from recognition.loss_angles import checkpoint_angles, class_angles
from recognition.toy_embeddings import render_faces, toy_cases, train_toy

KINDS = ("curves", "boundaries", "regions", "embeddings", "angles")
_DPI = 90

Picture = namedtuple("Picture", "name title caption figure")
Picture.__doc__ = """A picture of the page: its file's name without .png, title, what it shows, matplotlib Figure."""

_CAPTIONS = {
    "curves": ("Target logit curves", "What a margin makes of the label's cosine, over the angle θ between the "
               "embedding and the centre of its class, and below how fast that falls: the pull towards the centre, "
               "which turns into a push where it is negative. In brackets: m1, m2, m3. No λ, λ: SphereFace without "
               "annealing, and at the end of it. ‖x‖: the embedding's length, where the margin hangs on it. Beyond: "
               "what ArcFace does where θ + m2 passes 180° (line), or θ 90° (easy)."),
    "boundaries": ("Decision boundaries", "Two classes, and an embedding at the angles θ1 and θ2 from their centres. "
                   "In the blue part it has the higher logit of class 1 when that is its label, in the orange part of "
                   "class 2. What lies between is the margin: there an embedding is wrong whatever its label."),
    "regions": ("Regions of two classes", "The same on the circle of two-dimensional embeddings and the sphere of "
                "three-dimensional ones, the two centres (lines, dots) 90° apart: blue and orange is what each class "
                "holds, grey the margin. "
                "The weight of class 1 is 1.3 times as long, which moves the boundary of softmax alone."),
    "embeddings_2d": ("Two-dimensional embeddings", "A tiny network trained under each loss, from the same start; dots "
                      "are the images it was trained on, coloured by identity, lines point to the class centres. Above "
                      "the embeddings as they are, below their directions. Training accuracy is the share of images "
                      "whose own centre is the nearest by angle; θ are mean angles to centres."),
    "embeddings_3d": ("Three-dimensional embeddings", "The same on the sphere, by direction (pale "
                      "dots are behind), and below the angles between any two embeddings."),
    "embeddings_angles": ("Angles in a toy training", "The last of these trainings at its start, in the middle and at "
                          "the end: the angles from each image to the centre of its class and to the nearest other."),
    "angles": ("Angles in training", "The angles θ from each training image to the centre of its own class and to the "
               "nearest other centre, at some checkpoints."),
}


def draw(kinds=(), cases=None, faces=None, steps=600, seed=0, model="", dataset="", most=2000, devices=None,
         progress=True, backend="mxnet"):
    """Draw the pictures of some of KINDS; none named: all, angles only where a model is named.

    cases: list of Case, None for those that each picture shows best. faces: (images (N, 3, H, W) uint8 RGB, labels
    (N,)) to train toys on, None for rendered ones; steps: of each toy training; seed: of the toys, and of what is drawn
    from the data set. model: 'prefix', 'prefix,1' or 'prefix,1|5|9'; dataset: folder with train.rec, of which `most`
    images are taken (0: all); devices: list of mx.Context to embed them on, None for all GPUs, else the CPU;
    backend: what embeds them, see `cleaning.load_model`.
    Returns a list of Picture. Raises UserError for what cannot be drawn.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise unknown_name("picture", kind, KINDS)
    if not 0 <= seed < 2 ** 32:
        raise UserError(f"seed {seed}: expected 0 to {2 ** 32 - 1}")
    kinds = kinds or KINDS[:4 + bool(model)]
    if "angles" in kinds and not (model and dataset):
        raise UserError("angles: expected the checkpoints and the data set they were trained on; give --model and "
                        "--dataset")
    figures = {}
    if "angles" in kinds:
        figures["angles"] = _angles(model, dataset, most, seed, devices, progress, backend)
    for kind in ("curves", "boundaries", "regions"):
        if kind in kinds:
            make = getattr(loss_pictures, f"{kind}_figure")
            figures[kind] = make(cases) if cases else make()
    if "embeddings" in kinds:
        figures.update(_embeddings(cases or toy_cases(), faces or render_faces(seed=seed), steps, seed, progress))
    return [Picture(f"losses_{name}", *_CAPTIONS[name], figures[name]) for name in _CAPTIONS if name in figures]


def _embeddings(cases, faces, steps, seed, progress):
    images, labels = faces
    with tqdm(total=2 * len(cases) * steps, unit="step", disable=not progress) as bar:
        flat, deep = ([train_toy(case, images, labels, emb_size, steps, seed, bar) for case in cases]
                      for emb_size in (2, 3))
    last = deep[-1]
    angles = {name: class_angles(embeddings, labels, centres, int(max(labels)) + 1)
              for name, (embeddings, centres) in last.moments.items()}
    return dict(embeddings_2d=embedding_pictures.circle_figure(flat, images),
                embeddings_3d=embedding_pictures.sphere_figure(deep, images),
                embeddings_angles=embedding_pictures.angles_figure(
                    angles, f"Angles in training: {loss_pictures.label(last.case)}, three dimensions"))


def _angles(model, dataset, most, seed, devices, progress, backend):
    models = find_models(model)
    if "," not in model:  # all epochs, newest first
        models = [models[place] for place in sorted({len(models) - 1, len(models) // 2, 0}, reverse=True)]
    angles = checkpoint_angles(models, dataset, most, seed, devices, progress, backend)
    return embedding_pictures.angles_figure(
        {f"checkpoint {name.rpartition(',')[2]}": pair for name, pair in zip(models, angles)},
        f"Angles in training: {Path(models[0]).resolve().parent.name}")


def write_report(pictures, folder):
    """Write each picture as <name>.png and the page losses.html, which shows them all, into a folder.

    Returns the page's path. Raises UserError where the system refuses to write.
    """
    for picture in pictures:
        with replacing(Path(folder, f"{picture.name}.png")) as temporary:
            picture.figure.savefig(temporary, format="png", dpi=_DPI)
    path = Path(folder, "losses.html")
    write_text(path, page("Losses", "".join(_section(picture) for picture in pictures), "body { max-width: 81rem; }"))
    return path


def _section(picture):
    title, caption = escape(picture.title), escape(picture.caption)
    return (f'<h2 id="{picture.name}">{title}</h2>\n<p>{caption}</p>\n'
            f'<figure><img src="{picture.name}.png" alt="{title}"></figure>\n')
