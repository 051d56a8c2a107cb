"""Draw a face from numbers alone: `draw(identity, conditions)`.

The head is a stack of elliptic cross-sections and every feature a curve on its surface. All of it is turned, seen in
perspective, aligned by five landmarks to the ArcFace template as every face is that training meets, and filled with
OpenCV at twice the size. Nose, lips, eye sockets and cheeks are smooth bumps on top, which bend the normals that the
light falls on.

Coordinates of the head are those of `datasets.rendered_parameters`, with z towards the viewer and 0 at the ears.
"""
import math
from typing import NamedTuple

import cv2
import numpy as np

SIZE = 112
TEMPLATE = np.array([38.2946 + 51.6963j, 73.5318 + 51.5014j, 56.0252 + 71.7366j, 41.5493 + 92.3655j,
                     70.7299 + 92.2041j])  # x + iy of eyes, tip of the nose, corners of the mouth: ArcFace's alignment
ORIGIN = 56 + 72j
OVERSAMPLING = 2
SHIFT = 4  # fractional bits of the coordinates that OpenCV gets
CAMERA = 700.0  # from the centre of the head to the eye of the viewer: about 1.2 m
DEPTH = 51.0  # half of the head's, from the face to the back
WIDEST = -22.0  # y where the head is widest
SKIN, CLOTH, HAIR, THING = 255, 190, 150, 110  # fourth channel of the canvas: how much of the lamp's light it takes


def _spline(knots, steps):
    """The matrix that turns `knots` control points into a Catmull-Rom curve with `steps` points for each span."""
    basis = 0.5 * np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]])
    weights = (np.arange(steps)[:, None] / steps) ** np.arange(4) @ basis
    matrix = np.zeros(((knots - 3) * steps, knots))
    for span in range(knots - 3):
        matrix[span * steps:(span + 1) * steps, span:span + 4] = weights
    return matrix


OUTLINE = _spline(12, 5)
ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)])
SIDES = np.array([[-1], [1]])  # left and right in the picture
U9, U13, U25 = (np.linspace(-1, 1, count) for count in (9, 13, 25))
T9, T12 = (np.linspace(0, 1, count) for count in (9, 12))
WING = np.linspace(-0.9, 1.9, 9)
CROWN = np.radians(np.linspace(90, 0, 14))
SKINS = np.array([(246, 216, 198), (224, 182, 156), (184, 138, 110), (130, 92, 72), (92, 64, 52)])
HAIRS = np.array([(214, 178, 120), (158, 112, 66), (96, 62, 38), (52, 36, 28), (24, 20, 20)])
IRISES = np.array([(58, 34, 20), (96, 58, 30), (112, 92, 48), (88, 112, 84), (92, 128, 158)])
GRAIN = np.random.RandomState(5).standard_normal((4 * SIZE, 4 * SIZE)).astype(np.float32)
DICE = np.random.RandomState(6).random_sample(65536)


def _dice(seed, *shape):
    """Numbers in [0, 1) that hang on the seed: a stretch of a fixed table, much faster than a new generator."""
    return DICE[(np.arange(int(np.prod(shape))) + seed) % len(DICE)].reshape(shape)


def _there_and_back(x, first, second):
    """The closed curve that follows `first` over x to the right and `second` back."""
    return np.append(x, x[::-1]), np.append(first, second[::-1])


class _Head:
    """A head in its pose: where a point of the face lies in space, and where in the picture."""

    def __init__(self, identity, conditions):
        self.who, self.how = identity, conditions
        self.skin, self.hair = _skin(identity, conditions), _hair(identity, conditions)
        self.chin = identity.chin + 0.55 * conditions.mouth_opening
        self.mouth_x = identity.mouth_width * (1 + 0.10 * conditions.smile) - 0.25 * conditions.mouth_opening
        self.mouth_y = (identity.mouth_height - identity.mouth_curve - 1.6 * conditions.smile
                        + 0.3 * conditions.mouth_opening)
        outline = OUTLINE @ self._outline_knots()
        self.outline_x = np.maximum(np.append(outline[:, 0], 0), 1e-3)
        self.outline_y = np.maximum.accumulate(np.append(outline[:, 1], self.chin))
        self.rotation = self._rotation(conditions.yaw, conditions.pitch)
        self.gain, self.offset = 1.0 + 0j, 0j
        self._align()

    @staticmethod
    def _rotation(yaw, pitch):
        turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        nod = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
        return nod @ turn

    def _outline_knots(self):
        """Half of the outline of the head seen from the front, from the crown to the chin: x, y."""
        who, width, jaw = self.who, self.who.head_width, self.chin + self.who.jaw_height
        upper = [(width * np.sin(a), WIDEST - (WIDEST - who.head_top) * np.cos(a))
                 for a in np.radians([-30, 0, 30, 60, 90])]
        corner = 0.66 * who.jaw_width + 0.34 * who.chin_width
        lower = [(width * 0.99, WIDEST + 12), (width * who.cheek_width, 0), (width * who.jaw_width, jaw),
                 (width * corner, 0.42 * jaw + 0.58 * self.chin), (width * who.chin_width, self.chin - 1.6),
                 (0, self.chin), (-width * who.chin_width, self.chin - 1.6)]
        return np.array(upper + lower)

    def section(self, y):
        """The cross-section at height y: half its width, half its depth, z of its centre."""
        width = np.maximum(np.interp(y, self.outline_y, self.outline_x), 1)
        jaw = np.clip(y / self.chin, 0, 1)
        crown = np.clip((WIDEST - y) / (WIDEST - self.who.head_top), 0, 0.99)
        return width, DEPTH * np.sqrt(1 - crown ** 2) - 20 * jaw, 20 * jaw

    def _edge(self, width, depth):
        """The angle around a cross-section at which the turned head has its right-hand outline."""
        return np.arctan2(width * np.cos(self.how.yaw), depth * np.sin(self.how.yaw))

    def surface(self, points):
        """Points of the face, (n, 3): x and y as seen from the front, z above the smooth head -> places in space."""
        x, y, lift = points.T
        width, depth, centre = self.section(y)
        edge = self._edge(width, depth)
        angle = np.arcsin(np.clip(x / width, -0.98, 0.98))
        angle = np.clip(angle, edge - np.pi, edge)  # what has turned away stays on the outline
        return np.stack([width * np.sin(angle), y, centre + depth * np.cos(angle) + lift], 1)

    def silhouette(self, width, y, depth, centre):
        """The left-hand and the right-hand outline of a stack of cross-sections as places in space, (n, 3) each."""
        edge = self._edge(width, depth)
        x, z = width * np.sin(edge), depth * np.cos(edge)
        return np.stack([-x, y, centre - z], 1), np.stack([x, y, centre + z], 1)

    def project(self, places):
        """Places in space (n, 3) -> pixels of the picture as complex numbers x + iy."""
        turned = places @ self.rotation.T
        flat = (turned[:, 0] + 1j * turned[:, 1]) * (CAMERA / (CAMERA - turned[:, 2])) + ORIGIN
        return self.gain * flat + self.offset

    def landmarks(self):
        """Eyes, tip of the nose and corners of the mouth in the picture: x + iy, left before right."""
        who = self.who
        return self.project(self.surface(np.array([
            (-who.eye_distance, who.eye_height, 0), (who.eye_distance, who.eye_height, 0),
            (0, who.nose_height, who.nose_length), (-self.mouth_x, self.mouth_y, 0), (self.mouth_x, self.mouth_y, 0)])))

    def _align(self):
        """Set the similarity that brings the landmarks to the template (least squares), and the slip in it."""
        found, how = self.landmarks(), self.how
        centred = found - found.mean()
        gain = np.vdot(centred, TEMPLATE) / np.vdot(centred, centred).real
        offset = TEMPLATE.mean() - gain * found.mean()
        slip = how.scale * np.exp(1j * how.roll)
        self.gain = slip * gain
        self.offset = slip * (offset - ORIGIN) + ORIGIN + how.shift_x + 1j * how.shift_y


# ------------------------------------------------------------------------------------------------------------ colours
def _blend(first, second, share):
    return np.asarray(first) * (1 - share) + np.asarray(second) * share


def _between(palette, position):
    """The colour at `position`, 0 to 1, of a palette (n, 3)."""
    place = min(max(position, 0), 1) * (len(palette) - 1)
    low = min(int(place), len(palette) - 2)
    return palette[low] + (place - low) * (palette[low + 1] - palette[low])


def _skin(who, how):
    return _between(SKINS, who.skin_tone + how.tan) * (1 + who.skin_warmth * np.array([0.0, -0.015, -0.04]))


def _hair(who, how):
    dark_too = min(max(2.5 * who.skin_tone - 0.8, 0), 0.9)
    colour = _between(HAIRS, who.hair_darkness + (1 - who.hair_darkness) * dark_too + how.dye)
    return _blend(_blend(colour, colour * (1.15, 0.75, 0.6), 0.8 * who.hair_redness), (168, 166, 164), who.hair_grey)


def _iris(who):
    return _between(IRISES, who.iris_hue * min(max(1.5 - 1.5 * who.skin_tone, 0), 1))


# ------------------------------------------------------------------------------------------------- parts of the face
class _Shape(NamedTuple):
    """Curves to fill, or to follow with a pen of `width` template pixels."""

    points: np.ndarray  # (n, 3) or (curves, n, 3): x, y and height on the face, or, with in_space, places in space
    colour: np.ndarray
    width: float = 0.0
    light: int = SKIN
    in_space: bool = False


def _on_face(x, y, lift=0.0):
    """Points (..., 3) of the face from x (...), y and the height above the smooth head."""
    points = np.empty(x.shape + (3,))
    points[..., 0], points[..., 1], points[..., 2] = x, y, lift
    return points


def _outline(head, skin):
    _, depth, centre = head.section(head.outline_y)
    left, right = head.silhouette(head.outline_x, head.outline_y, depth, centre)
    return [_Shape(np.concatenate([right, left[::-1]]), skin, in_space=True)]


def _neck(head, skin):
    width, chin = head.who.head_width, head.chin
    neck = np.array([(-0.6 * width, -20), (-0.62 * width, 60), (0.62 * width, 60), (0.6 * width, -20)])
    collar = np.array([(-0.66 * width, chin - 1), (-1.1 * width, chin + 7), (-2.6 * width, chin + 16), (-200, 160),
                       (200, 160), (2.6 * width, chin + 16), (1.1 * width, chin + 7), (0.66 * width, chin - 1),
                       (0.4 * width, chin + 6), (0, chin + 9), (-0.4 * width, chin + 6)])
    return [_Shape(_on_face(*neck.T, -6), skin * (0.72, 0.66, 0.62), in_space=True),
            _Shape(_on_face(*collar.T, -6), 20 + 200 * _dice(head.how.detail, 3), light=THING, in_space=True)]


def _ear(head, skin, side):
    size = head.who.ear_size
    ring = np.stack([(0.3 + 0.42 * CIRCLE[0] - 0.15 * CIRCLE[1]) * size, CIRCLE[1] * size], 1)
    outwards = np.array([side * np.sin(head.who.ear_angle), 0, -np.cos(head.who.ear_angle)])
    root = np.array([side * 0.95 * head.who.head_width, -9, 2.0])

    def place(ring):
        return root + ring[:, :1] * outwards + ring[:, 1:] * (0, 1, 0)
    inside = 0.58 * ring + 0.42 * ring.mean(0)
    return [_Shape(place(ring), skin * (0.93, 0.86, 0.83), in_space=True),
            _Shape(place(inside), skin * (0.78, 0.68, 0.64), in_space=True)]


def _lids(head):
    """y of the upper and the lower lid, from the middle of the eye, at U13 * eye_width."""
    opening, smile = head.who.eye_opening, max(head.how.smile, 0)
    closing = np.clip(head.how.eye_closing + 0.12 * smile, -0.25, 1)
    lower = (0.62 * opening + 0.2) * (1 - 0.2 * smile) * (1 - U13 ** 2)
    upper = -opening * (1 - np.abs(U13 + 0.1 * (1 - U13 ** 2)) ** 2.4)
    return upper * (1 - closing) + lower * closing * 0.85, lower


def _eyes(head, skin):
    who, how, width = head.who, head.how, head.who.eye_width
    upper, lower = _lids(head)

    def place(x, y):  # from the middles of the eyes, x away from the nose
        return _on_face(SIDES * (who.eye_distance + x), who.eye_height + y - x * math.sin(who.eye_tilt))

    def disc(radius):  # cut off by the lids
        x = np.clip(radius * CIRCLE[0] + SIDES * how.gaze_x, -width, width)
        y = radius * CIRCLE[1] + how.gaze_y - 0.3
        return place(x, np.clip(y, np.interp(x, U13 * width, upper), np.interp(x, U13 * width, lower)))
    x, iris = U13 * width, _iris(who)
    crease = upper - who.lid_crease * (1 - 0.55 * U13 ** 2)
    shapes = [_Shape(place(x, crease), skin * (0.66, 0.55, 0.5), 0.7),
              _Shape(place(*_there_and_back(x, upper, lower)), np.array([230, 224, 220])),
              _Shape(place(x, upper + 0.6), np.array([176, 166, 162]), 1.2),
              _Shape(disc(who.iris_size), iris * 0.62), _Shape(disc(who.iris_size * 0.8), iris),
              _Shape(disc(who.iris_size * 0.42), np.array([14, 10, 10]))]
    if how.eye_closing < 0.45:
        glint = SIDES * (0.6 * CIRCLE[0] + how.gaze_x + 0.9)
        shapes.append(_Shape(place(glint, 0.6 * CIRCLE[1] + how.gaze_y - 1), np.array([250, 250, 250])))
    lashes = place(np.append(x, x[-1] + 0.9), np.append(upper, upper[-1] - 0.5))
    return shapes + [_Shape(place(x, lower), skin * (0.7, 0.56, 0.52), 0.6),
                     _Shape(lashes, _blend(skin * 0.3, (20, 14, 14), who.lashes), 0.8 + 0.9 * who.lashes)]


def _brows(head, skin):
    who = head.who
    x = who.brow_gap + who.brow_length * T12
    middle = (who.brow_height - head.how.brow_raise * (0.7 + 0.3 * T12) - who.brow_arch * np.sin(np.pi * T12 ** 1.4)
              - np.sin(who.brow_tilt) * (x - who.brow_gap))
    half = who.brow_thickness * np.clip(1.1 - 0.85 * T12, 0, 1) * np.clip(0.55 + 3 * T12, 0, 1)
    colour = _blend(skin, np.minimum(head.hair, skin * 0.6), np.clip(who.brow_darkness, 0.3, 1))
    shapes = []
    for grow, tone in ((1.4, _blend(skin, colour, 0.45)), (0.85, colour)):
        around, y = _there_and_back(x, middle - half * grow, middle + half * grow)
        shapes.append(_Shape(_on_face(SIDES * around, y), tone))
    return shapes


def _nose(head, skin):
    who, base, lift = head.who, head.who.nose_height + 4.2, 0.3 * head.who.nose_length
    under = _on_face(U9 * 0.45 * who.nose_width, base + 1.2 + 0.9 * (1 - U9 ** 2), lift)
    edges = _on_face(SIDES * (who.nose_width - 2.6 + 2.6 * np.cos(WING)), base - 2.4 + 3 * np.sin(WING), 2.5)
    x, y = CIRCLE[0] * 0.23 * who.nose_width, CIRCLE[1] * (0.5 + 1.1 * who.nostrils)
    nostrils = _on_face(SIDES * (0.46 * who.nose_width + x), base + 0.5 + y + 0.2 * x, lift)
    return [_Shape(under, skin * (0.7, 0.58, 0.54), 0.7), _Shape(edges, skin * (0.72, 0.6, 0.55), 0.7),
            _Shape(nostrils, skin * (0.36, 0.25, 0.22))]


def _lips(head):
    """Curves of the mouth: x, and y of the upper edge, of both sides of the opening and of the lower edge, (25,)."""
    who, how = head.who, head.how
    arch = 1 - U25 ** 2
    line = head.mouth_y + (who.mouth_height - head.mouth_y + 0.4) * arch ** 0.8
    bow = np.exp(-(U25 / 0.16) ** 2) * who.cupid_bow
    stretch = 1 - 0.18 * np.clip(how.smile, -1, 1)
    above, below = line - 0.3 * how.mouth_opening * arch, line + 0.95 * how.mouth_opening * arch ** 0.8
    upper = above - who.upper_lip * stretch * arch ** 0.75 * (1 + 0.15 * np.cos(4 * U25)) + bow
    return U25 * head.mouth_x, upper, above, below, below + who.lower_lip * stretch * arch ** 0.85


def _mouth(head, skin):
    who, opening = head.who, head.how.mouth_opening
    x, upper, above, below, lower = _lips(head)
    red = _blend(skin * (0.86, 0.6, 0.58), (186, 62, 70), who.lip_redness * (0.55 - 0.25 * who.skin_tone))

    def band(first, second, lift=1.0):
        return _on_face(*_there_and_back(x, first, second), lift)
    shapes = [_Shape(band(below, lower), red), _Shape(band(upper, above), red * 0.86)]
    if opening > 0.4:
        teeth = band(above, np.minimum(above + 0.4 + 0.5 * opening, below), -1.0)
        shapes += [_Shape(band(above, below, -1.0), np.array([58, 22, 24])),
                   _Shape(teeth * (0.86, 1, 1), np.array([222, 216, 206]))]
    else:
        shapes.append(_Shape(_on_face(x, (above + below) / 2, 1.0), skin * (0.42, 0.28, 0.27), 0.9))
    corners = _on_face(SIDES * (x[-1] + np.array([0.2, 1.2, 1.6])), lower[-1] + np.array([-0.8, -0.2, 0.4]))
    return shapes + [_Shape(corners, skin * (0.76, 0.63, 0.6), 0.8)]


def _folds(head, skin):
    """The lines from the nose around the mouth, and those under the eyes."""
    who = head.who
    top, bottom = who.nose_height + 4, head.mouth_y + 1
    x = who.nose_width + 2 + (head.mouth_x + 4.5 - who.nose_width) * np.sin(1.5 * T9) ** 1.2
    line = _on_face(SIDES * x, top + (bottom - top) * T9)
    bag = _on_face(SIDES * (who.eye_distance + U9 * who.eye_width * 0.9), who.eye_height + 5.4 - 1.5 * U9 ** 2)
    depth = np.clip(0.4 * who.folds + 0.2 * head.how.smile, 0, 0.6)
    return [_Shape(line, _blend(skin, skin * (0.72, 0.62, 0.58), depth), 0.8),
            _Shape(bag, _blend(skin, skin * (0.74, 0.62, 0.6), np.clip(who.folds, 0, 0.7)), 0.7)]


def _marks(head, skin):
    who, spots = head.who, []
    if who.mole:
        spots.append((np.array([[who.mole_x, who.mole_y, who.mole]]), 0.42))
    if who.freckles:
        spots.append((_dice(who.detail, 1 + int(45 * who.freckles), 3) * (56, 26, 0.35) + (-28, -16, 0.3), 0.8))
    return [_Shape(_on_face(spot[:, :1] + spot[:, 2:] * CIRCLE[0, ::3], spot[:, 1:2] + spot[:, 2:] * CIRCLE[1, ::3]),
                   skin * tone * (1, 0.88, 0.84)) for spot, tone in spots]


# --------------------------------------------------------------------------------------------------------------- hair
def _hairline(who, how, x):
    """y of the hairline at x."""
    far = np.abs(x) / (0.9 * who.head_width)
    fringe = max(who.fringe + 0.6 * how.hair_change, 0) if who.fringe > 0 else 0
    y = (who.hairline - who.baldness + (17 + who.baldness) * far ** 3 + who.hairline_peak * np.exp(-(x / 6) ** 2)
         - who.hairline_temples * np.exp(-((far - 0.6) / 0.2) ** 2)
         + fringe * np.exp(-((x - who.fringe_x) / who.fringe_width) ** 2))
    return np.maximum(y, who.head_top + 6)


def _resampled(curve, count=64):
    places = np.linspace(0, len(curve) - 1, count)
    return np.stack([np.interp(places, np.arange(len(curve)), axis) for axis in curve.T], 1)


def _hair_edges(head):
    """The edge of the hair along the face and the one around the head, as places in space, left to right.

    Both run a little further down than the hair: (64, 3) each.
    """
    who, how = head.who, head.how
    bottom = who.sideburns + who.hair_length + how.hair_change * (1 if who.hair_length else 0.3)
    below = bottom + (7 if who.hair_length else 1)
    x = np.linspace(-0.9, 0.9, 25) * who.head_width
    front = head.surface(_on_face(x, _hairline(who, how, x), 0.5))
    y = np.linspace(below, min(front[0, 1], bottom - 1), 8)
    wide = 0.93 + (0.01 if who.hair_length else 0.06) * np.linspace(1, 0, 8) ** 2
    side = _on_face(who.head_width * wide, y, 0.36 * DEPTH)
    inner = np.concatenate([side * (-1, 1, 1), front, side[::-1]])

    volume = who.hair_volume * (0.4 if who.baldness else 1)
    y = np.append(np.linspace(below, WIDEST, 7)[:-1], WIDEST - (WIDEST - who.head_top + volume) * np.cos(CROWN))
    taper = 1 if who.hair_length else np.clip((-y - 12) / 40, 0.1, 1)
    curl = 1 + 0.2 * who.hair_waves * np.sin(0.3 * y + who.detail % 7)
    shape = np.append(np.ones(6), np.sin(CROWN)) + 1e-3
    left, right = head.silhouette((who.head_width + volume * taper * curl) * shape, y, (DEPTH + volume) * shape,
                                  np.zeros(len(y)))
    return _resampled(inner), _resampled(np.concatenate([left, right[::-1]]))


def _strands(who, inner, outer, count):
    """Curves (count, 9, 3) in the hair, combed away from the parting or back."""
    start, depth, reach, phase = _dice(who.detail, 4, count)
    parting = 0.5 - 0.005 * who.fringe_x
    sideways = np.clip(who.hair_sweep + 3.5 * np.abs(start - 0.5) - 0.2, 0, 1)  # beside the face hair hangs
    along = start[:, None] + (np.sign(start - parting) * sideways * (0.12 + 0.2 * reach))[:, None] * T9
    away = 1.08 * depth[:, None] - 0.06 + ((1 - sideways) * (0.2 + 0.4 * reach))[:, None] * T9
    away = away + 0.05 * who.hair_waves * np.sin(9 * T9 + 6 * phase[:, None])
    index = np.clip(along, 0, 1) * (len(inner) - 1)
    low = np.minimum(index.astype(int), len(inner) - 2)
    rest, away = (index - low)[..., None], np.minimum(away, 1.03)[..., None]
    near = inner[low] * (1 - rest) + inner[low + 1] * rest
    far = outer[low] * (1 - rest) + outer[low + 1] * rest
    return near * (1 - away) + far * away


def _hair_behind(head, edges):
    return [_Shape(edges[1], head.hair * 0.55, light=HAIR, in_space=True)]


def _hair_in_front(head, skin, edges):
    colour, (inner, outer) = head.hair, edges
    shadow = inner[14:-14] + (0, 1.3, 0)
    shapes = [_Shape(shadow, skin * (0.84, 0.8, 0.78), 2.2, in_space=True),
              _Shape(np.concatenate([inner[2:-2], outer[-3:1:-1]]), colour * 0.86, light=HAIR, in_space=True)]
    for tone, curves in zip((0.78, 0.9, 1.0, 1.1, 1.2), np.split(_strands(head.who, inner, outer, 80), 5)):
        shapes.append(_Shape(curves, colour * tone, 0.5, HAIR, True))
    return shapes


# ------------------------------------------------------------------------------------------------- what hides a face
def _glasses(head):
    who, look = head.who, _dice(head.how.detail, 6)
    colour, power = 10 + 80 * look[3:], 0.55 + 0.45 * look[0]
    x, y = np.sign(CIRCLE) * np.abs(CIRCLE) ** power * ((9.5 + 2 * look[1],), (6.5 + 2 * look[2],))
    shapes = []
    for side in (-1, 1):
        rim = head.surface(_on_face(side * who.eye_distance + x, who.eye_height + 1 + y, 3.0))
        rim[:, 2] = 0.75 * rim[:, 2].max() + 0.25 * rim[:, 2]  # glasses are flatter than a face
        hinge = rim[np.argmax(side * rim[:, 0])]
        arm = np.stack([hinge, (side * who.head_width * 0.99, who.eye_height - 1, 4)])
        if head.how.occlusion == "sunglasses":
            shapes.append(_Shape(rim, colour * 0.7 + 12, 0.0, THING, True))
        shapes += [_Shape(np.concatenate([rim, rim[:1]]), colour, 1.3, THING, True),
                   _Shape(arm, colour, 1.4, THING, True)]
    bridge = (who.eye_distance - 9.5 - 2 * look[1]) * np.array([-1, 0, 1])
    return shapes + [_Shape(_on_face(bridge, who.eye_height - 1.0 - np.array([0, 1, 0]), 7.0), colour, 1.4, THING)]


def _hand(head):
    look, skin = _dice(head.how.detail, 6), head.skin
    side, x, y = 1 if look[0] < 0.5 else -1, 8 + 18 * look[1], 14 + 20 * look[2]
    shapes = []
    for finger in range(4):
        line = np.linspace((x + 34, y + 12 + 7 * finger), (x - 6 - 4 * look[3] * (finger % 3), y - 8 + 6 * finger), 6)
        for width, tone in ((7.4, 0.7), (6.2, 0.95)):
            shapes.append(_Shape(_on_face(side * line[:, 0], line[:, 1], 12.0), skin * tone, width, CLOTH))
    return shapes


def _scarf(head):
    look, width = _dice(head.how.detail, 14), head.who.head_width
    colour, edge = 30 + 190 * look[:3], 6 + 10 * look[3]
    top = head.surface(_on_face(U25 * 0.97 * width, edge + 3 - 5 * np.cos(1.5 * U25), 7.0))
    shapes = [_Shape(np.concatenate([top, [(60, 60, 0), (60, 140, 0), (-60, 140, 0), (-60, 60, 0)]]), colour, 0.0,
                     CLOTH, True)]
    for fold in range(5):
        y = edge + 5 + 7 * fold - 5 * np.cos(1.5 * U25 + 2 * look[4 + fold] - 1)
        shapes.append(_Shape(_on_face(U25 * 0.9 * width, y, 7.0), colour * (0.7 + 0.45 * look[9 + fold]), 1.5, CLOTH))
    return shapes


def _hat(head):
    look, who = _dice(head.how.detail, 4), head.who
    colour, line = 20 + 200 * look[:3], -46 + 7 * look[3]
    rim = head.surface(_on_face(U25 * 0.97 * who.head_width, line + 6 * U25 ** 2, 2.0))
    y = np.append(line + 6, WIDEST - (WIDEST - who.head_top + 9) * np.cos(CROWN[5:]))
    shape = np.append(0.95, np.sin(CROWN[5:])) + 1e-3
    left, right = head.silhouette((who.head_width + 8) * shape, y, (DEPTH + 8) * shape, np.zeros(len(y)))
    brim = np.concatenate([rim + (0, 1.5, 5), (rim - (0, 4, -2))[::-1]])
    return [_Shape(np.concatenate([rim, right, left[::-1]]), colour, 0.0, CLOTH, True),
            _Shape(brim, colour * 0.7, 0.0, CLOTH, True)]


HIDING = dict(none=lambda head: [], glasses=_glasses, sunglasses=_glasses, hand=_hand, scarf=_scarf, hat=_hat)


def _shapes(head):
    """Everything to be drawn, from the back to the front."""
    who, how, skin, edges = head.who, head.how, head.skin, _hair_edges(head)
    near = 1 if how.yaw < 0 else -1  # the side of the head that is turned to the viewer
    ears = not who.hair_length
    return (_hair_behind(head, edges) + _neck(head, skin) + (_ear(head, skin, -near) if ears else [])
            + _outline(head, skin) + _marks(head, skin) + _folds(head, skin) + _nose(head, skin)
            + _mouth(head, skin) + _eyes(head, skin) + _brows(head, skin)
            + _hair_in_front(head, skin, edges) + (_ear(head, skin, near) if ears else [])
            + HIDING[how.occlusion](head))


# ----------------------------------------------------------------------------------------------------- filling, light
def _background(seed):
    """An empty canvas (224, 224, 4) uint8 with a blurred background in its first three layers."""
    look = _dice(seed, 4 + 16 + 48)
    colours = np.zeros((4, 4, 4))
    colours[..., :3] = (20 + 200 * look[0] + 60 * look[1:4] + (10 + 120 * look[0]) * (look[4:20].reshape(4, 4, 1) - 0.5)
                        + 28 * look[20:].reshape(4, 4, 3) - 44)
    coarse = np.clip(colours, 0, 255).astype(np.uint8)
    coarse = cv2.resize(coarse, (SIZE // 4, SIZE // 4), interpolation=cv2.INTER_CUBIC)
    return cv2.resize(coarse, (SIZE * OVERSAMPLING, SIZE * OVERSAMPLING), interpolation=cv2.INTER_LINEAR)


def _pixels(head, points, scale=1):
    """Places in space as fixed-point coordinates (n, 2), as OpenCV draws them, on a canvas `scale` times as big."""
    flat = (head.project(points) + 0.5 + 0.5j) * scale - 0.5 - 0.5j
    return np.round(np.stack([flat.real, flat.imag], 1) * 2 ** SHIFT).astype(np.int32)


def _fill(head, shapes, canvas):
    """Draw the shapes on the canvas and bring it to the size of the picture: (4, 112, 112) float32."""
    counts = [shape.points.size // 3 for shape in shapes]
    points = np.concatenate([shape.points.reshape(-1, 3) for shape in shapes])
    on_face = np.repeat([not shape.in_space for shape in shapes], counts)
    points[on_face] = head.surface(points[on_face])
    flat, pen, start = _pixels(head, points, OVERSAMPLING), OVERSAMPLING * abs(head.gain), 0
    for shape, count in zip(shapes, counts):
        curves = flat[start:start + count].reshape(-1, shape.points.shape[-2], 2)
        colour = (*np.minimum(shape.colour, 255).tolist(), shape.light)
        if shape.width:
            cv2.polylines(canvas, curves, False, colour, max(1, int(shape.width * pen + 0.5)), cv2.LINE_AA, SHIFT)
        else:
            cv2.fillPoly(canvas, curves, colour, cv2.LINE_AA, SHIFT)
        start += count
    small = cv2.resize(canvas, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return np.stack(cv2.split(small)).astype(np.float32)


def _bumps(head):
    """Smooth bumps of the face, one a row: x, y, height, spread in x, spread in y, shade, blush."""
    who, how = head.who, head.how
    width, smile, mouth = who.nose_width, max(how.smile, 0), who.mouth_height + how.mouth_opening
    step = (who.nose_height - 2 - who.eye_height) / 4
    ridge = who.nose_bridge + (0.62 * who.nose_length - who.nose_bridge) * np.linspace(0, 1, 5) ** 1.3
    ridge = ridge + who.nose_hump * np.array([0.1, 0.6, 1, 0.5, 0.1])
    rows = [(0, who.eye_height + step * i, 0.62 * ridge[i], who.nose_bridge_width + 0.22 * i, 0.8 * step, 0, 0)
            for i in range(5)]
    rows += [(0, who.nose_height, 0.34 * who.nose_length, who.nose_tip, 0.95 * who.nose_tip, 0, 10),
             (0, who.nose_height + 7, -0.5, 0.8 * width, 1.8, 0.16, 0),  # under the nose
             (0, head.mouth_y - 7, -0.5, 1.6, 3.0, 0.04, 0),
             (0, who.mouth_height - 2.5, 1.0, 0.55 * head.mouth_x, 1.8, 0, 0),
             (0, mouth + 3, 1.5, 0.5 * head.mouth_x, 2.2, 0, 0),
             (0, mouth + 8, -1.4, 0.6 * head.mouth_x, 2.6, 0.12, 0),  # under the lip
             (0, head.chin - 8, who.chin_relief, 0.7 * who.chin_width * who.head_width, 5.5, 0, 3),
             (0, head.chin + 10, 0, 26, 6.5, 0.45, 0),  # under the chin
             (0, who.brow_height - 12, 1.0, 18, 9, 0, 0)]
    for side in (-1, 1):
        eye, cheek = side * who.eye_distance, side * who.head_width
        rows += [(side * width * 0.82, who.nose_height + 1.8, 2.4, 2.3, 2.6, 0, 4),
                 (eye, who.eye_height - 1, -who.eye_depth, 1.25 * who.eye_width, 4.8, 0.06, 0),
                 (eye, who.eye_height, 1.6, 0.7 * who.eye_width, 3.2, 0, 0),
                 (side * (who.eye_distance - who.eye_width), who.eye_height - 0.5, -1.2, 3.0, 3.6, 0.2, 0),
                 (0.95 * eye, who.brow_height + 1.5, who.brow_ridge, 9, 3.6, 0, 0),
                 (0.56 * cheek, 1 - 2 * smile, who.cheek_relief + 1.2 * smile, 9, 8, 0, 11),
                 (0.62 * cheek, 15, -0.6 * who.cheek_relief, 7, 8, 0.05, 0),
                 (side * (width + 5), who.nose_height + 9, -0.7 - who.folds - smile, 2.8, 5, 0.03, 0),
                 (side * (head.mouth_x + 1), head.mouth_y, -0.8, 2.4, 2.4, 0.1, 0)]
    return np.array(rows)


def _relief(head):
    """What the bumps do: slope of the face in x and in y, shade (0 to 1) and blush (grey levels), (112, 112) each."""
    bumps = _bumps(head).astype(np.float32)
    height, shade, blush = bumps[:, 2], bumps[:, 5], bumps[:, 6]
    where = head.project(head.surface(bumps[:, :3] * (1, 1, 0.5)))
    spread = bumps[:, 3:5] * np.float32(abs(head.gain))
    spread[:, 0] *= np.cos(0.8 * head.how.yaw)
    pixels = np.arange(SIZE, dtype=np.float32)[:, None]
    away_x = (pixels - where.real.astype(np.float32)) / spread[:, 0]
    away_y = (pixels - where.imag.astype(np.float32)) / spread[:, 1]
    bell_x, bell_y = np.exp(-0.5 * away_x ** 2), np.exp(-0.5 * away_y ** 2)
    slope_x = _summed(bell_y * height, -away_x * bell_x / bumps[:, 3])
    slope_y = _summed(-away_y * bell_y * height / bumps[:, 4], bell_x)
    return slope_x, slope_y, _summed(bell_y * shade, bell_x), _summed(bell_y * blush, bell_x)


def _summed(down, across):
    """down @ across.T, (112, n) each, in parts that are too small for BLAS to wake its threads, which costs more."""
    return (down.reshape(4, SIZE // 4, -1) @ across.T).reshape(SIZE, SIZE)


def _normals(head, slope_x, slope_y):
    """x, y and z of the unit normals, (112, 112) each, of an egg of the size of the head with these slopes on it."""
    centre = head.project(np.array([(0, -14.0, 0)]))[0]
    wide, high = abs(head.gain) * (head.who.head_width + 5), abs(head.gain) * 62
    pixels = np.arange(SIZE, dtype=np.float32)
    x, y = (pixels - np.float32(centre.real)) / np.float32(wide), (pixels - np.float32(centre.imag)) / np.float32(high)
    depth = np.sqrt(np.maximum(1 - (x ** 2 + (y ** 2)[:, None]), np.float32(0.06)))
    bend_x = np.float32(0.85) * (x / depth - slope_x)
    bend_y = np.float32(0.6) * y[:, None] / depth - np.float32(0.75) * slope_y
    z = 1 / np.sqrt(1 + bend_x ** 2 + bend_y ** 2)
    return bend_x * z, bend_y * z, z


def _unit(vector):
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _lit(head, layers):
    """The colours (3, 112, 112) of the layers under the light; the fourth layer is the share of light each takes."""
    how, share = head.how, layers[3] / 255
    skin = _skin_share(layers)
    slope_x, slope_y, shade, blush = (field * skin for field in _relief(head))
    x, y, z = _normals(head, slope_x, slope_y)
    lamp = _unit(np.array([how.light_x, how.light_y, 1.0]))
    between = _unit(lamp + (0, 0, 1))
    direct = np.maximum(lamp[0] * x + lamp[1] * y + lamp[2] * z + 0.25, 0)
    light = ((1 - how.light_strength) * (0.85 - 0.15 * y) + how.light_strength * direct) * (1 - shade)
    gloss = np.maximum(between[0] * x + between[1] * y + between[2] * z, 0) ** 2
    gloss = 255 * how.shine * how.light_strength * share * (gloss * gloss * gloss) ** 4
    colours = layers[:3] + blush * np.array([[[1]], [[-0.4]], [[-0.4]]], np.float32)
    return colours * (1 + share * (light - 1)) + gloss


def _beard(head, layers):
    """Grow beard and moustache on the skin in the layers (4, 112, 112), in place."""
    who = head.who
    if not (who.beard or who.moustache):
        return
    mask = np.zeros((SIZE, SIZE), np.uint8)
    x, upper, _, _, lower = _lips(head)

    def fill(places, value):
        cv2.fillPoly(mask, [_pixels(head, places)], int(255 * value), cv2.LINE_AA, SHIFT)
    if who.beard:
        cheek = head.mouth_y - 2 - 34 * np.clip(np.abs(U25) - 0.5, 0, 1) + 9 * np.exp(-(U25 / 0.4) ** 2)
        y = np.linspace(-16, head.chin, 20)
        width, depth, centre = head.section(y)
        left, right = head.silhouette(width, y, depth, centre)
        fill(np.concatenate([head.surface(_on_face(0.95 * who.head_width * U25, cheek)), right, left[::-1]]), who.beard)
    if who.moustache:
        around = _there_and_back(U25 * (head.mouth_x + 2), who.nose_height + 8 + 6 * np.abs(U25) ** 1.6,
                                 head.mouth_y + 1 - 3 * (1 - U25 ** 2))
        fill(head.surface(_on_face(*around)), who.moustache)
    fill(head.surface(_on_face(*_there_and_back(x, upper, lower), 1.0)), 0)
    share = cv2.GaussianBlur(mask, (0, 0), 1.0).astype(np.float32) / 255
    share = np.clip(share * (0.8 + 0.2 * _grain(who.detail)), 0, 1) * _skin_share(layers)
    layers[:3] += share * (head.hair.astype(np.float32)[:, None, None] * 0.75 - layers[:3])


def _skin_share(layers):
    """Where the layers show bare skin, 0 to 1: the other parts take less light."""
    return np.clip(4 / 255 * layers[3] - 3, 0, 1)


def _grain(seed):
    row, column = seed % (len(GRAIN) - SIZE), seed // 1000 % (len(GRAIN) - SIZE)
    return GRAIN[row:row + SIZE, column:column + SIZE]


def _photograph(how, colours):
    """What the camera makes of the colours: white balance, contrast, blur, noise. Returns (112, 112, 3) uint8."""
    gain = how.contrast * np.exp(how.exposure + np.array([[[how.temperature]], [[how.tint]], [[-how.temperature]]]))
    colours = colours * gain.astype(np.float32)
    grey = (1 - how.saturation) * (colours[0] + colours[1] + colours[2]) / 3 + 118 * (1 - how.contrast)
    colours = how.saturation * colours + grey
    glare = np.maximum(colours - 170, 0)
    colours -= glare * glare / (glare + 90)  # film does not burn out at once
    if how.blur > 0.2:
        colours = np.stack([cv2.GaussianBlur(layer, (0, 0), how.blur) for layer in colours])
    colours += np.float32(how.noise) * _grain(how.detail)
    return cv2.merge(list(np.clip(colours, 0, 255).astype(np.uint8)))


def draw(identity, conditions):
    """Draw one picture: (112, 112, 3) uint8 RGB. The same identity and conditions give the same picture."""
    head = _Head(identity, conditions)
    layers = _fill(head, _shapes(head), _background(conditions.detail))
    _beard(head, layers)
    return _photograph(conditions, _lit(head, layers))


def landmarks(identity, conditions):
    """Where the eyes, the tip of the nose and the corners of the mouth lie in the picture: (5, 2), pixels x, y."""
    found = _Head(identity, conditions).landmarks()
    return np.stack([found.real, found.imag], 1)
