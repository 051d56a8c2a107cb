"""MobileFaceNet on MS1M, the first of two stages: softmax, on which ArcFace then builds (`mobilefacenet_arcface`).

By the recipe of the original's authors. Should reach nothing by itself: it is where the margin can begin.
Costs 140,000 steps of 512 images, 72 million images of 0.44 GFLOPs each forward; the learning rate is not lowered.
"""
from recognition.recipes import Recipe

RECIPE = Recipe(dict(dataset="emore", network="y1", loss="softmax", lr=0.1, wd=4e-5, fc7_wd_mult=10.0), 512, (), 140000)
