"""CosFace on CASIA-WebFace (Wang et al. 2018, section 4.1): 10,575 identities, 0.49 million images.

Should reach: LFW 99.33, YTF 96.1, MegaFace rank-1 77.11, verification 89.88 (table 2). The paper's faces are 112 x 96,
and a network with --net-output E takes any size; it tests with the embeddings of an image and its mirror image one
behind the other.
Costs 30,000 steps of 512 images, 15.4 million images; the paper used eight GPUs.
"""
from recognition.recipes import Recipe

RECIPE = Recipe(dict(network="s64", loss="cosface", loss_m3=0.35, loss_s=64.0, lr=0.1, wd=0.0005), 512,
                (16000, 24000, 28000), 30000)
