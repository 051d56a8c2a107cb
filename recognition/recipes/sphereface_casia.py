"""SphereFace on CASIA-WebFace (Liu et al. 2017, section 4.1): 10,575 identities, 0.49 million images.

Should reach, with 64 layers: LFW 99.42, YTF 95.0, MegaFace rank-1 72.73, verification 85.56; with --network s20 LFW
99.13 to 99.30 (the authors' code, five runs). The softmax that is learnt beside the margin falls from 1000 to 5 by
their schedule, which is in steps, whatever their size.
Costs 28,000 steps of 256 images (the authors' code; the paper says 128), 7.2 million images.
"""
from recognition.recipes import Recipe

RECIPE = Recipe(dict(network="s64", loss="sphereface", loss_m1=4, lr=0.1, wd=0.0005), 256, (16000, 24000), 28000)
