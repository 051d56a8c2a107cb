"""What a margin makes of the label's angle, as symbol ops: cosine in, cosine out, any shape.

θ is the angle between an embedding and its class centre, in radians. A margin is a number, or a symbol of the
cosine's shape where it grows in the first steps or depends on the image.
"""
import math

from common.errors import UserError
from common.mxnet_setup import mx

_TINY = 1e-14


def angle(cosine):
    """θ = arccos(cosine), by the half-angle formula, with a finite derivative everywhere.

    The derivative of arccos itself is infinite at ±1, which a float32 cosine reaches (and oversteps) by rounding;
    there the direction of steepest change is undefined, and the derivative here is 0.
    """
    opposite, adjacent = mx.sym.maximum(1 - cosine, _TINY), mx.sym.maximum(1 + cosine, _TINY)
    return 2 * mx.sym.arctan(mx.sym.sqrt(opposite / adjacent))


def combined(cosine, m1, m2, m3):
    """cos(m1·θ + m2) − m3 (Deng et al., 2019, equation 4).

    Like the original since 2019 it is not made monotonic beyond m1·θ + m2 = π.
    """
    if all(isinstance(margin, (int, float)) for margin in (m1, m2)) and (m1, m2) == (1, 0):
        return cosine - m3
    return mx.sym.cos(angle(cosine) * m1 + m2) - m3


def monotonic_arcface(cosine, m):
    """cos(θ + m) up to θ + m = π, from there on cos θ − m·sin m: falling everywhere (m up to 2.3).

    As the original had it in 2018; CurricularFace and MagFace are built on it.
    """
    sine, turn = (mx.sym.sin(m), -mx.sym.cos(m)) if isinstance(m, mx.sym.Symbol) else (math.sin(m), -math.cos(m))
    return mx.sym.where(cosine > turn, mx.sym.cos(angle(cosine) + m), cosine - m * sine)


def easy_arcface(cosine, m):
    """cos(θ + m) up to θ = π/2, from there on cos θ: images far from their class feel no margin."""
    return mx.sym.where(cosine > 0, mx.sym.cos(angle(cosine) + m), cosine)


def sphere(cosine, m):
    """ψ(θ) = (−1)^k cos(mθ) − 2k with k = ⌊mθ/π⌋ (Liu et al., 2017, equation 7): falling from 1 to 1 − 2m.

    Raises UserError unless m is a whole number from 1 on.
    """
    if m != int(m) or m < 1:
        raise UserError(f"loss_m1 {m}: SphereFace's margin multiplies the angle by a whole number, 1 or more; for "
                        "others, such as 1.35, take --loss combined")
    theta = angle(cosine)
    piece = mx.sym.BlockGrad(mx.sym.minimum(mx.sym.floor(theta * (m / math.pi)), m - 1))
    sign = 1 - 2 * (piece - 2 * mx.sym.floor(piece / 2))
    return sign * mx.sym.cos(theta * m) - 2 * piece
