"""What a verification compares: packs of pairs of images, and sets of pairs of templates."""
from common.errors import DataError
from datasets import is_template_set
from datasets.packs import load_pack
from datasets.templates import load_templates


def load_target(path, image_shape=(112, 112)):
    """Open what `find_target` found: a `packs.Pack` or a `templates.TemplateSet`.

    image_shape: (height, width) that its images must have. Raises DataError for one that is damaged or of another size.
    """
    if not is_template_set(path):
        return load_pack(path, image_shape)
    found = load_templates(path)
    if found.image_shape != tuple(image_shape):
        raise DataError(f"{path}: images of {found.image_shape}; expected {tuple(image_shape)} (height, width)")
    return found
