"""MobileFaceNet on MS1M, the second of two stages: ArcFace, from what `mobilefacenet_softmax` has trained.

    python recognition/train.py --recipe mobilefacenet_arcface --pretrained models/y1-softmax-emore/model

By the recipe of the original's authors, who do not say where it ended. Should reach: LFW 99.50, CFP-FP 88.94, AgeDB-30
95.91.
Costs 180,000 steps of 512 images, 92 million images of 0.44 GFLOPs each forward.
"""
from recognition.recipes import Recipe

RECIPE = Recipe(dict(dataset="emore", network="y1", loss="arcface", lr=0.1, wd=4e-5, fc7_wd_mult=10.0), 512,
                (100000, 140000, 160000), 180000, begins_with="the model of --recipe mobilefacenet_softmax")
