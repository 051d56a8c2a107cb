"""The tables of the papers and of the original's pages: what each row trains, and what is printed.

Sources, by the letters of `Table.source`: A, ArcFace (Deng et al. 2019, of its versions the third where they differ);
C, CosFace (Wang et al. 2018); M, MobileFaceNet (Chen et al. 2018); S, sub-centre ArcFace (Deng et al. 2020); R, the
pages of the original repository of 2017 and 2018. Figures are in per cent, angles in degrees.
"""
from typing import Any, Dict, NamedTuple, Tuple

VERIFICATION, MEGAFACE, ANGLES = "verification", "megaface", "angles"  # what a table measures
PACKS = ("lfw", "cfp_fp", "agedb_30")
_IDENTIFICATION = ("rank-1", "TAR", "rank-1 refined", "TAR refined")
_ANGLE_NAMES = ("W-EC", "W-Inter", "Intra1", "Inter1", "Intra2", "Inter2")
# Of short trainings: a quarter of MobileNet's width behind a 7x7 convolution of stride 2. MobileFaceNet with one block
# a stage trains 3.5 times slower.
_SMALL = ("--network", "MobileNetE", "--net-multiplier", "0.25", "--emb-size", "128")


class Row(NamedTuple):
    """A row. name: as the paper has it; flags: of train.py, after the table's; paper: column -> printed figure.

    short: flags in place of these where the training is short, None for the same; begins: the row whose model it goes
    on from, of the same seed; data: the data it trains on, see `paper.Runs._training`; rate: learning rate of a short
    training from nothing. At 0.1 networks whose last layer is a BatchNorm get nowhere in batches of 32, for their
    embeddings are 22 long; at 0.02 those without it hardly begin.
    """

    name: str
    flags: Tuple[str, ...]
    paper: Dict[str, float] = {}
    short: Any = None
    begins: str = ""
    data: str = ""
    rate: float = 0.02


class Table(NamedTuple):
    """A table. network: flags of the paper's network; short: of the one in short trainings; recipe: of train.py.

    reference: the row that others are compared with; after_softmax: whether short trainings go on from one with
    softmax, since a full margin hardly starts from nothing in so few steps; base_rate: learning rate of that one;
    measures: of each row.
    """

    title: str
    source: str
    rows: Tuple[Row, ...]
    reference: str
    recipe: str = "arcface_casia"
    network: Tuple[str, ...] = ("--network", "r50")
    short: Tuple[str, ...] = _SMALL
    after_softmax: bool = True
    base_rate: float = 0.1
    measures: Tuple[str, ...] = (VERIFICATION,)


BASE = Row("base", ("--loss", "softmax"))  # what short trainings of losses begin with


def _flags(text):
    return tuple(text.split())


def _row(name, flags, figures=(), columns=PACKS, **more):
    """figures: the paper's, in the order of the columns; None where it has none."""
    paper = {column: figure for column, figure in zip(columns, figures) if figure is not None}
    return Row(name, _flags(flags), paper, **more)


def _loss(name, loss, figures=(), columns=PACKS, **more):
    return _row(name, f"--loss {loss}", figures, columns, **more)


def _network(name, figures, short, columns=("lfw",), **more):
    """A row of another network, which is trained from nothing."""
    return _row(name, f"--network {name}", figures, columns, short=_flags(short), **more)


_TRIPLET = "triplet --loss-alpha 0.35"
_LOSSES = (
    _loss("Softmax", "softmax", (99.08, 94.39, 92.33)),
    _loss("SphereFace, m = 4", "sphereface", (99.42,)),
    _loss("SphereFace, m = 1.35", "sphereface135", (99.11, 94.38, 91.70)),
    _loss("CosFace, m = 0.35", "cosface", (99.51, 95.44, 94.56)),
    _loss("CM1 (1, 0.3, 0.2)", "cm1", (99.48, 95.12, 94.38)),
    _loss("CM2 (0.9, 0.4, 0.15)", "cm2", (99.50, 95.24, 94.86)),
    _loss("ArcFace, m = 0.4", "arcface --loss-m2 0.4", (99.53, 95.41, 94.98)),
    _loss("ArcFace, m = 0.45", "arcface --loss-m2 0.45", (99.46, 95.47, 94.93)),
    _loss("ArcFace, m = 0.5", "arcface", (99.53, 95.56, 95.15)),
    _loss("ArcFace, m = 0.55", "arcface --loss-m2 0.55", (99.41, 95.32, 95.05)),
    _loss("Norm-Softmax, s = 64", "nsoftmax", (98.56, 89.79, 88.72)),
    _loss("Norm-Softmax, s = 20", "nsoftmax --loss-s 20", (99.20, 94.61, 92.65)),
    _loss("NS + Intra", "nsoftmax --loss-intra 1", (98.75, 93.81, 90.92)),
    _loss("NS + Inter", "nsoftmax --loss-inter 1", (98.68, 90.67, 89.50)),
    _loss("NS + Intra + Inter", "nsoftmax --loss-intra 1 --loss-inter 1", (98.73, 94.00, 91.41)),
    _loss("Triplet, 0.35", _TRIPLET, (98.98, 91.90, 89.98), begins="Softmax"),
    _loss("ArcFace + Intra", "arcface --loss-intra 1", (99.45, 95.37, 94.73)),
    _loss("ArcFace + Inter", "arcface --loss-inter 1", (99.43, 95.25, 94.55)),
    _loss("ArcFace + Intra + Inter", "arcface --loss-intra 1 --loss-inter 1", (99.43, 95.42, 95.10)),
    _loss("ArcFace + Triplet", _TRIPLET, (99.50, 95.51, 94.40), begins="ArcFace, m = 0.5"),
)
_PRINTED = {row.name: row.paper for row in _LOSSES}
_MARGINS = (
    _loss("Norm-Softmax", "nsoftmax", (98.56, 89.79, 88.72)),
    *(_row(f"SphereFace, m = {m}", f"--loss sphereface135 --loss-m1 {m}")._replace(
        paper=_PRINTED.get(f"SphereFace, m = {m}", {})) for m in (1.2, 1.35, 1.5)),
    *(_row(f"CosFace, m = {m}", f"--loss cosface --loss-m3 {m}")._replace(
        paper=_PRINTED.get(f"CosFace, m = {m}", {})) for m in (0.15, 0.25, 0.35, 0.45)),
    *(_row(f"ArcFace, m = {m}", "--loss arcface" + f" --loss-m2 {m}" * (m != 0.5))._replace(
        paper=_PRINTED.get(f"ArcFace, m = {m}", {})) for m in (0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7)),
)
_COMBINED = tuple(
    _loss(name, loss, figures) for name, loss, figures in (
        ("(1, 0, 0) norm-softmax", "nsoftmax", (99.28, 88.50, 95.13)),
        ("(1.5, 0, 0) SphereFace", "sphereface135 --loss-m1 1.5", (99.76, 94.17, 97.30)),
        ("(1, 0, 0.35) CosFace", "cosface", (99.80, 94.4, 97.91)),
        ("(1, 0.5, 0) ArcFace", "arcface", (99.83, 94.04, 98.08)),
        ("(1.2, 0.4, 0)", "combined --loss-m1 1.2 --loss-m2 0.4 --loss-m3 0", (99.80, 94.08, 98.05)),
        ("(1.1, 0, 0.35)", "combined --loss-m1 1.1 --loss-m2 0 --loss-m3 0.35", (99.81, 94.50, 98.08)),
        ("(1, 0.3, 0.2)", "cm1", (99.83, 94.51, 98.13)),
        ("(0.9, 0.4, 0.15)", "cm2", (99.83, 94.20, 98.16)),
    ))
_QUARTER = "--net-multiplier 0.25"
_BACKBONES = (
    _network("r50", (99.53, 95.56, 95.15), f"--network r18 {_QUARTER}", PACKS),
    _network("y1", (99.28, None, 93.05), "--network y1", PACKS),
    _network("m1", (98.63, None, 88.95), "--network m05", PACKS),
    _network("m2", (98.58, None, 88.81), "--network m2 --net-multiplier 0.5", PACKS),
    _network("mnas", (), "--network mnas05"),
    _network("vargfacenet", (), "--network vargfacenet --net-multiplier 0.5"),
    _network("d121", (), "--network d121"),
    _row("s20 with SphereFace", "--network s20 --loss sphereface", (99.23,),  # of five
         short=_flags("--network s4 --loss sphereface")),
)
_OUTPUTS = tuple(
    _network(f"SE-ResNet50{letter}_v1", (figure,), f"--network MobileNet{letter} {_QUARTER}"
             + " --emb-size 256" * (letter == "A"),  # A gives the channels themselves
             rate=0.1 if letter in "AB" else 0.02)
    for letter, figure in zip("ABCDEF", (99.367, 99.200, 99.317, 99.383, 99.267, 99.367))
) + (_network("LMobileNetE", (99.633,), f"--network LMobileNetE {_QUARTER}"),) + tuple(
    _network("LMobileNetE", (), f"--network LMobileNetE {_QUARTER} --net-output {name}")._replace(
        name=f"LMobileNetE with {name}", flags=_flags(f"--network LMobileNetE --net-output {name}"))
    for name in ("GAP", "GNAP", "GDC"))
_INPUTS = tuple(
    _network(name, (figure,), short and f"--network {short} {_QUARTER}") for name, figure, short in (
        ("SE-ResNet50C_v1", 99.317, "MobileNetC"), ("SE-LResNet50C_v1", 99.567, "LMobileNetC"),
        ("SE-ResNet50D_v1", 99.383, "MobileNetD"), ("SE-LResNet50D_v1", 99.600, "LMobileNetD"),
        ("SE-ResNet50E_v1", 99.267, "MobileNetE"), ("SE-LResNet50E_v1", 99.650, "LMobileNetE"),
    ))
_BLOCKS = tuple(
    _network(name, figure and (figure,), f"--network {short} {_QUARTER}") for name, figure, short in (
        ("SE-LResNet50D_v1", 99.600, "SE-ResNet18D_v1"), ("SE-LResNet50D_v3", 99.617, "SE-ResNet18D_v3"),
        ("SE-LResNet50E_v1", 99.650, "SE-ResNet18E_v1"), ("SE-LResNet50E_v2", (), "SE-ResNet18E_v2"),
        ("SE-LResNet50E_v3", 99.767, "SE-ResNet18E_v3"), ("LResNet50E_v3", 99.750, "ResNet18E_v3"),
    ))
_IJB = ("IJB-B at 1e-4", "IJB-C at 1e-4")
_GENTLE = "--loss-s 16 --loss-m2 0.2"  # a full margin on wrong labels soon undoes what softmax has learnt
_CLEANING = tuple(
    _loss(name, loss, figures, columns, short=_flags(f"--loss {loss} {_GENTLE}"), data=data)
    for name, loss, figures, columns, data in (
        ("as it is, K = 1", "arcface", (87.87, 90.27), _IJB, ""),
        ("as it is, K = 3", "subcenter", (91.70, 93.72), _IJB, ""),
        ("as it is, K = 5", "subcenter --loss-k 5", (91.47, 93.62), _IJB, ""),
        ("as it is, K = 10", "subcenter --loss-k 10", (63.84, 67.94), _IJB, ""),
        ("distant images left out", "arcface", (94.56, 95.92), _IJB, "dropped: as it is, K = 3"),
        ("without the people of lfw", "arcface", (99.81,), PACKS, "without lfw"),
    ))
_MEGAFACE = (
    _loss("Softmax", "softmax", (54.85, 65.92), _IDENTIFICATION),
    _loss("Contrastive", "contrastive", (65.21, 78.86), _IDENTIFICATION, begins="Softmax"),
    _loss("Triplet", _TRIPLET, (64.79, 78.32), _IDENTIFICATION, begins="Softmax"),
    _loss("Center loss", "centre", (65.49, 80.14), _IDENTIFICATION),
    _loss("L-Softmax", "lsoftmax", (67.12, 80.42), _IDENTIFICATION),
    _loss("SphereFace", "sphereface", (72.729, 85.561), _IDENTIFICATION),
    _loss("AM-Softmax", "cosface --loss-s 30", (72.47, 84.44), _IDENTIFICATION),
    _loss("CosFace", "cosface", (77.11, 89.88), _IDENTIFICATION),
    _loss("ArcFace", "arcface", (77.50, 92.34, 91.75, 93.69), _IDENTIFICATION),
)
_ANGLES = (
    _loss("Norm-Softmax", "nsoftmax", (44.26, 69.66, 50.50, 59.23, 33.97, 65.60), _ANGLE_NAMES),
    _loss("ArcFace", "arcface", (14.29, 71.61, 38.45, 65.83, 28.05, 66.55), _ANGLE_NAMES),
    _loss("Intra loss", "nsoftmax --loss-intra 1", (8.83, 31.34, 17.50, 24.07, 12.94, 26.28), _ANGLE_NAMES),
    _loss("Inter loss", "nsoftmax --loss-inter 1", (46.85, 75.66, 52.74, 62.40, 35.38, 67.90), _ANGLE_NAMES),
    _loss("Triplet", _TRIPLET, (None, None, 41.19, 50.23, 27.42, 55.94), _ANGLE_NAMES, begins="Norm-Softmax"),
)
_SOFTMAX = _flags("--loss softmax")
_STRUCTURE = dict(recipe="arcface_vgg2", after_softmax=False, network=_SOFTMAX, short=_SOFTMAX)
TABLES = {
    "loss-comparison": Table("Losses (A, table 2: CASIA, r50)", "A", _LOSSES, "Softmax"),
    "margins": Table("Margins (A, table 2: CASIA, r50)", "A", _MARGINS, "Norm-Softmax"),
    "combined": Table("Combined margins (R: MS1M, r100)", "R", _COMBINED, "(1, 0, 0) norm-softmax", "arcface_ms1mv2",
                      ("--network", "r100")),
    "backbones": Table("Networks (A: r50; M: y1, m1, m2; the authors' five runs: s20; all CASIA)", "A, M", _BACKBONES,
                       "y1", **dict(_STRUCTURE, recipe="arcface_casia", network=())),
    "outputs": Table("From the last map to the embedding (R: VGGFace2, softmax)", "R", _OUTPUTS, "SE-ResNet50E_v1",
                     **_STRUCTURE),
    "inputs": Table("The first convolution: 7x7 of stride 2, or 3x3 of stride 1: L (R: VGGFace2, softmax)", "R",
                    _INPUTS, "SE-ResNet50E_v1", **_STRUCTURE),
    "blocks": Table("Residual units (R: VGGFace2, softmax)", "R", _BLOCKS, "SE-LResNet50E_v1", **_STRUCTURE),
    "cleaning": Table("Noise in the training set (S, table 3: MS1MV0, r50; R: MS1M, r100, without overlaps)", "S, R",
                      _CLEANING, "as it is, K = 1", base_rate=0.02),  # with wrong labels it learns nothing at 0.1
    "megaface": Table("MegaFace, small protocol (A, table 6; C, table 2: CASIA)", "A, C", _MEGAFACE, "Softmax",
                      measures=(MEGAFACE,)),
    "angles": Table("Angles (A, table 3: CASIA, r50, and LFW)", "A", _ANGLES, "Norm-Softmax", measures=(ANGLES,)),
}
