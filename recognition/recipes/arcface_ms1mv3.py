"""ArcFace on MS1MV3, MS1M cleaned by RetinaFace (Deng et al., PAMI 2021): 93,431 identities, 5.1 million images.

Should reach: CFP-FP 98.79, CPLFW 93.21, AgeDB-30 98.23, CALFW 96.02; MegaFace rank-1 80.71, verification 97.46, refined
98.51 and 98.74; IJB-B 95.42 and IJB-C 96.83 (TAR at FAR 1e-4).
Costs 18 epochs, with steps of 512 images 180,000; 92 million images of 24.2 GFLOPs each forward.
"""
from recognition.recipes import Recipe

RECIPE = Recipe(dict(dataset="retina", network="r100", loss="arcface", lr=0.1, wd=0.0005), 512, (8, 14), 18,
                in_epochs=True)
