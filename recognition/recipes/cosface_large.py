"""CosFace on 5 million images of 90,000 identities (Wang et al. 2018, section 4.1), which the authors did not publish.

Should reach: LFW 99.73, YTF 97.6, MegaFace rank-1 82.72, verification 96.65. MS1MV2 is of that size.
Costs 240,000 steps of 512 images, 123 million images; the paper used eight GPUs.
"""
from recognition.recipes import Recipe

RECIPE = Recipe(dict(network="s64", loss="cosface", loss_m3=0.35, loss_s=64.0, lr=0.05, wd=0.0005), 512,
                (80000, 140000, 200000), 240000)
