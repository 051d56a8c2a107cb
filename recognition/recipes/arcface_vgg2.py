"""ArcFace on VGGFace2 (Deng et al., PAMI 2021): 9,131 identities, 3.3 million images.

Should reach, with ResNet-50: IJB-B 89.8, IJB-C 92.79 (TAR at FAR 1e-4).
Costs 12 epochs, with steps of 512 images 74,000; 38 million images of 12.6 GFLOPs each forward.
"""
from recognition.recipes import Recipe

RECIPE = Recipe(dict(network="r50", loss="arcface", lr=0.1, wd=0.0005), 512, (6, 9), 12, in_epochs=True)
