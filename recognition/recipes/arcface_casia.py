"""ArcFace on CASIA-WebFace (Deng et al. 2019, sections 3.1 and 3.2): 10,575 identities, 0.49 million images.

Should reach, with m = 0.5: LFW 99.53, CFP-FP 95.56, AgeDB-30 95.15 (table 2); MegaFace rank-1 77.50, verification
92.34, both before the refinement of the lists.
Costs 32,000 steps of 512 images, 16.4 million images of 12.6 GFLOPs each forward; the paper used four P40.
"""
from recognition.recipes import Recipe

RECIPE = Recipe(dict(network="r50", loss="arcface", lr=0.1, wd=0.0005), 512, (20000, 28000), 32000)
