"""Triplets, to tune a model that a loss over classes has trained (FaceNet: Schroff et al. 2015; the original's preset).

    python recognition/train.py --recipe triplet --network r100 --dataset emore \
        --pretrained models/r100-arcface-emore/model

Should reach: the ArcFace paper, whose ResNet-50 on CASIA learnt by triplets, found LFW 98.98, CFP-FP 91.90 and AgeDB-30
89.98 (table 2), less than by ArcFace; tuning helps where the faces to come are of another kind.
Costs 20,000 steps of 240 images, and the mining, another forward pass of each image. Length and learning rate are this
project's own choice.
"""
from recognition.recipes import Recipe

RECIPE = Recipe(dict(loss="triplet", lr=0.005), 240, (10000, 16000), 20000, begins_with="a model trained over classes")
