"""ArcFace on MS1MV2, the refined MS-Celeb-1M (Deng et al. 2019, section 3.1): 85,742 identities, 5.8 million images.

Should reach: LFW 99.83, YTF 98.02, CALFW 95.45, CPLFW 92.08; MegaFace rank-1 81.03, verification 96.98, refined 98.35
and 98.48; IJB-B 94.2 and IJB-C 95.6 (TAR at FAR 1e-4).
Costs 180,000 steps of 512 images, 92 million images of 24.2 GFLOPs each forward.
"""
from recognition.recipes import Recipe

RECIPE = Recipe(dict(dataset="emore", network="r100", loss="arcface", lr=0.1, wd=0.0005), 512, (100000, 160000), 180000)
