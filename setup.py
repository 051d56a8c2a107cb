"""Dependencies of the project. Its commands run from the clone, so no module is installed.

`pip install .[cpu]` on a machine without a GPU; `.[cu112]` to `.[cu117]` for the CUDA wheels on PyPI. MXNet is in
the extras alone, so that a wheel which is already there (a CUDA one, or one of your own) is never replaced.
"""
from setuptools import setup

CUDA = ("cu112", "cu113", "cu114", "cu115", "cu116", "cu117")
CUDA_LIBRARIES = [  # what the CUDA wheels load beside the driver; see README, "On GPUs"
    "nvidia-cuda-runtime-cu11", "nvidia-cublas-cu11", "nvidia-cudnn-cu11>=8.5,<9", "nvidia-nccl-cu11",
    "nvidia-cufft-cu11", "nvidia-cusolver-cu11", "nvidia-cusparse-cu11", "nvidia-curand-cu11",
    "nvidia-cuda-nvrtc-cu11", "nvidia-nvtx-cu11",
]
ONNX = ["onnx>=1.12", "onnxruntime>=1.12"]

setup(
    name="arcface-mxnet",
    version="0.1.0",
    description="Face recognition on Apache MXNet: training, verification, MegaFace",
    python_requires=">=3.8,<3.13",
    packages=[],
    py_modules=[],
    install_requires=[
        "numpy>=1.17,<2",
        "opencv-python-headless>=4.2,<4.12",  # without the windows that need libGL; 4.12 wants NumPy 2
        "scikit-learn>=1.0",
        "easydict>=1.9",
        "matplotlib>=3.5",
        "tqdm>=4.60",
        "setuptools; python_version >= '3.12'",  # MXNet imports distutils
    ],
    extras_require={
        "cpu": ["mxnet==1.9.1"],
        **{cuda: [f"mxnet-{cuda}==1.9.1"] for cuda in CUDA},
        "cuda-libraries": CUDA_LIBRARIES,
        "faiss": ["faiss-cpu>=1.7"],  # eval/megaface.py --index
        "horovod": ["horovod==0.28.1"],  # built against MXNet, see docs/many-machines.md
        "onnx": ONNX,  # recognition/export.py --format onnx, --backend onnxruntime
        "test": ["pytest>=7", "pytest-xdist>=3", "hypothesis>=6", "ruff>=0.5", *ONNX],
    },
)
