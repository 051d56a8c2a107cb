"""What every room needs and none owns: errors, devices, files, checkpoints, the embedder, face alignment, logging."""
import os

# Pixels of an image that OpenCV decodes at most: a few hostile bytes can announce a thousand million. It is read when
# OpenCV is imported; set it yourself for photographs of more than 67 megapixels.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))
