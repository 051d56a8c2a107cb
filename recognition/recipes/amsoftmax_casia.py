"""AM-Softmax on CASIA-WebFace without 59 identities of LFW and MegaFace (F. Wang et al. 2018, and its prototxt).

Should reach: MegaFace rank-1 72.47, verification 84.44.
Costs 30,000 steps of 256 images, 7.7 million images.
"""
from recognition.recipes import Recipe

RECIPE = Recipe(dict(network="s20", loss="cosface", loss_m3=0.35, loss_s=30.0, lr=0.1, wd=0.0005), 256,
                (16000, 24000, 28000), 30000)
