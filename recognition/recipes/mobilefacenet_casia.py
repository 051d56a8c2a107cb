"""MobileFaceNet with ArcFace on CASIA-WebFace (Chen et al. 2018, section 4.1): 10,575 identities, 0.49 million images.

Should reach: LFW 99.28, AgeDB-30 93.05. The paper's weight decay is 4e-4 on the last layers, behind the global
depthwise convolution; here the head alone has it.
Costs 60,000 steps of 512 images, 30.7 million images of 0.44 GFLOPs each forward.
"""
from recognition.recipes import Recipe

RECIPE = Recipe(dict(network="y1", loss="arcface", lr=0.1, wd=4e-5, fc7_wd_mult=10.0), 512,
                (36000, 52000, 58000), 60000)
