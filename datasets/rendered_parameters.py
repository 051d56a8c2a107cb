"""What a rendered face is drawn from: who it is (`Identity`) and how the picture was taken (`Conditions`).

Each field says how it is drawn at random; its default is the middle of that, so `Identity()` is the mean face.
Lengths are pixels of the 112x112 template, with x to the right, y down and the origin at the tip of the mean nose
(template pixel 56, 72); angles are radians.
"""
import dataclasses
import math
from dataclasses import dataclass

import numpy as np


def _normal(mean, spread, low=-math.inf, high=math.inf):
    """A field that is `mean` or, at random, normal within two standard deviations of it, cut to [low, high]."""
    def sample(rng):
        return float(min(max(mean + spread * min(max(rng.standard_normal(), -2), 2), low), high))
    return dataclasses.field(default=float(mean), metadata={"sample": sample})


def _sometimes(chance, low, high):
    """A field that is 0 or, with probability `chance`, uniform in [low, high]."""
    def sample(rng):
        present, value = rng.random_sample(2)
        return float(low + (high - low) * value) if present < chance else 0.0
    return dataclasses.field(default=0.0, metadata={"sample": sample})


def _uniform(low, high, default):
    return dataclasses.field(default=float(default), metadata={"sample": lambda rng: float(rng.uniform(low, high))})


def _choice(**chances):
    """A field of names: the first or, at random, each by its chance."""
    names, limits = list(chances), np.cumsum(list(chances.values()))[:-1]
    return dataclasses.field(default=names[0], metadata={
        "sample": lambda rng: names[int(np.searchsorted(limits, rng.random_sample(), side="right"))]})


def _seed():
    return dataclasses.field(default=0, metadata={"sample": lambda rng: int(rng.randint(2 ** 31))})


@dataclass(frozen=True)
class Identity:
    """Who it is: the shape of head and features, the colours of skin, eyes and hair, and the cut of the hair."""

    head_width: float = _normal(44, 2.9)  # half of it, at the temples
    head_top: float = _normal(-84, 5)  # y
    cheek_width: float = _normal(0.92, 0.037)  # of the head's, at the height of the nose
    jaw_width: float = _normal(0.745, 0.075)  # of the head's, at the angle of the jaw
    jaw_height: float = _normal(-18, 3.1)  # of that angle, from the chin
    chin_width: float = _normal(0.28, 0.094)  # of the head's
    chin: float = _normal(40, 3.2)  # y of its lowest point
    chin_relief: float = _normal(3.0, 1.9)
    cheek_relief: float = _normal(2.2, 1.6)
    ear_size: float = _normal(11, 1.9)  # half of its height
    ear_angle: float = _normal(0.6, 0.25)  # how far it stands off

    eye_distance: float = _normal(17.2, 1.6)  # half of it
    eye_height: float = _normal(-20.3, 1.5)  # y
    eye_width: float = _normal(6.7, 0.88)  # half of it
    eye_opening: float = _normal(3.1, 0.69, 1.6)  # of the upper lid above the middle
    eye_tilt: float = _normal(0.06, 0.11)
    eye_depth: float = _normal(3.2, 1.9)
    iris_size: float = _normal(3.1, 0.2)
    iris_hue: float = _uniform(0, 1, 0.3)  # brown, hazel, green, blue
    lid_crease: float = _normal(2.2, 1.1, 0.3)  # above the upper lid
    lashes: float = _normal(0.45, 0.3, 0.1)

    brow_height: float = _normal(-31, 2.2)  # y
    brow_gap: float = _normal(8.0, 2.4)  # x of the inner end
    brow_length: float = _normal(18.5, 2.5)
    brow_thickness: float = _normal(1.7, 0.69, 0.6)  # half of it
    brow_arch: float = _normal(2.0, 1.8)
    brow_tilt: float = _normal(0.02, 0.12)
    brow_darkness: float = _normal(0.75, 0.15)
    brow_ridge: float = _normal(1.5, 1.5)

    nose_height: float = _normal(0, 2.5)  # y of the tip
    nose_width: float = _normal(7.4, 1.6)  # half of it
    nose_length: float = _normal(13, 2.8)  # from the face to the tip
    nose_bridge: float = _normal(5.0, 2)  # its height between the eyes
    nose_bridge_width: float = _normal(3.2, 0.75)
    nose_hump: float = _normal(0.5, 1.5)
    nose_tip: float = _normal(4.0, 0.88)  # its roundness
    nostrils: float = _normal(0.4, 0.31, 0.05)  # how much one sees of them

    mouth_height: float = _normal(20.4, 2.1)  # y
    mouth_width: float = _normal(14.0, 2)  # half of it
    upper_lip: float = _normal(2.4, 1, 0.7)
    lower_lip: float = _normal(3.5, 1.1, 1.2)
    cupid_bow: float = _normal(0.9, 0.62, 0)
    mouth_curve: float = _normal(0.5, 1.1)
    lip_redness: float = _normal(0.4, 0.25, 0, 1)

    skin_tone: float = _uniform(0, 0.85, 0.3)  # light to dark
    skin_warmth: float = _normal(0, 1)
    folds: float = _normal(0.25, 0.3, 0)  # lines from the nose to the mouth and under the eyes
    freckles: float = _sometimes(0.15, 0.3, 1)
    mole_x: float = _uniform(-28, 28, 0)
    mole_y: float = _uniform(-42, 30, 0)
    mole: float = _sometimes(0.2, 0.5, 1.0)  # its radius
    beard: float = _sometimes(0.3, 0.25, 0.95)
    moustache: float = _sometimes(0.25, 0.3, 0.95)

    hair_darkness: float = _uniform(0, 1, 0.6)
    hair_redness: float = _normal(0.3, 0.25, 0, 1)
    hair_grey: float = _sometimes(0.15, 0.3, 1)
    hairline: float = _normal(-52, 4.5)  # y above the forehead
    hairline_peak: float = _normal(0, 1.8)
    hairline_temples: float = _normal(2, 2.5)  # how far it recedes there
    baldness: float = _sometimes(0.1, 14, 30)  # how far it recedes everywhere
    hair_volume: float = _normal(7, 3, 2)
    sideburns: float = _normal(-15, 5)  # y of their end
    hair_length: float = _sometimes(0.45, 24, 85)  # how far it hangs below, over the ears
    hair_sweep: float = _uniform(0, 1, 0.6)  # combed back to combed sideways
    hair_waves: float = _normal(0.2, 0.8, 0)
    fringe: float = _normal(3, 7, 0, 14)  # how far it hangs into the forehead
    fringe_x: float = _uniform(-26, 26, 12)
    fringe_width: float = _normal(20, 5)
    detail: int = _seed()  # of freckles and strands


@dataclass(frozen=True)
class Conditions:
    """How the picture was taken. The spreads below are how hard the rendered data are: the wider, the harder."""

    yaw: float = _normal(0, 0.24)
    pitch: float = _normal(0, 0.11)
    roll: float = _normal(0, 0.035)  # what the alignment leaves of it
    shift_x: float = _normal(0, 1.2)
    shift_y: float = _normal(0, 1.2)
    scale: float = _normal(1, 0.035)

    smile: float = _normal(0.15, 0.45)
    mouth_opening: float = _normal(0, 1.8, 0)
    eye_closing: float = _normal(0, 0.25, -0.25, 1)
    brow_raise: float = _normal(0, 0.9)
    gaze_x: float = _normal(0, 1.0)
    gaze_y: float = _normal(0, 0.4)

    light_x: float = _normal(0, 0.75)  # where the lamp stands, beside and below the viewer, in his distance
    light_y: float = _normal(-0.45, 0.5)
    light_strength: float = _normal(0.55, 0.2, 0.1)  # of the lamp; the rest comes from all around
    exposure: float = _normal(0.05, 0.2)  # natural logarithm of the gain
    temperature: float = _normal(0, 0.10)  # natural logarithm of the gain in red and of the loss in blue
    tint: float = _normal(0, 0.035)  # the same of green
    contrast: float = _normal(1, 0.15)
    saturation: float = _normal(1, 0.25)
    shine: float = _normal(0.12, 0.12, 0)

    blur: float = _normal(0.3, 0.45, 0)  # standard deviation
    noise: float = _normal(2.5, 3, 0)  # standard deviation in grey levels
    jpeg_quality: float = _normal(82, 12, 30, 98)
    tan: float = _normal(0, 0.08)  # change of the skin's tone
    dye: float = _normal(0, 0.12)  # change of the hair's darkness
    hair_change: float = _normal(0, 3)  # of its length and fringe
    occlusion: str = _choice(none=0.78, glasses=0.10, sunglasses=0.03, hand=0.03, scarf=0.03, hat=0.03)
    detail: int = _seed()  # of background and noise, and of what hides the face


def _random(kind, rng):
    return kind(**{field.name: field.metadata["sample"](rng) for field in dataclasses.fields(kind)})


def random_identity(rng):
    """Draw an Identity. rng: numpy.random.RandomState."""
    identity = _random(Identity, rng)
    if identity.hair_length:  # long hair and a beard are rare together
        identity = dataclasses.replace(identity, beard=0.0, moustache=0.0)
    return identity


def random_conditions(rng):
    """Draw Conditions. rng: numpy.random.RandomState."""
    return _random(Conditions, rng)
