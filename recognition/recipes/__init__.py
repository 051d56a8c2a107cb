"""The papers' trainings by name, a module for each: what it should reach and what it costs stand in its docstring.

    python recognition/train.py --recipe arcface_casia --dataset datasets/casia

A recipe lies over the presets of network and loss, and under a config file and flags. Its schedule is for a step of so
many images; with other batches it is stretched so that as many images are seen, and the learning rate scaled in
proportion to the batch (Goyal et al. 2017, section 2.1).
"""
from importlib import import_module
from pathlib import Path
from typing import Any, Dict, NamedTuple, Tuple

from common.errors import UserError, unknown_name


class Recipe(NamedTuple):
    """A training of a paper.

    settings: over those of network and loss, see `presets.SETTINGS`, lr among them; batch: images in a step of all
    devices; drops: after which steps the learning rate is divided by ten; end: the last step; in_epochs: whether these
    are counted in epochs. begins_with: what --pretrained should name, in words, or ''.
    """

    settings: Dict[str, Any]
    batch: int
    drops: Tuple[int, ...]
    end: int
    in_epochs: bool = False
    begins_with: str = ""


NONE = Recipe({}, 0, (), 0)


def recipe_names():
    """All names, in order."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def get_recipe(name):
    """The Recipe of this name; NONE for ''. Raises UserError for an unknown one, listing the known."""
    return _module(name).RECIPE if name else NONE


def describe(name):
    """What a recipe is, should reach, and costs: a list of lines."""
    recipe, text = get_recipe(name), _module(name).__doc__.strip()
    return [f"recipe {name}, made for steps of {recipe.batch} images:", *(f"  {line}".rstrip() for line in
                                                                          text.splitlines())]


def _module(name):
    if name not in recipe_names():
        raise unknown_name("recipe", name, recipe_names())
    return import_module(f"recognition.recipes.{name}")


def with_schedule(settings, recipe, given):
    """Settings with the recipe's schedule for the batches that they ask for; settings that are `given` stay.

    settings: see `presets.resolve`, to which the recipe's own settings have gone already. Raises UserError where the
    recipe leaves the data set or the model to begin with to the user, and none is named.
    """
    if recipe is NONE:
        return settings
    if "dataset" not in {**recipe.settings, **given}:
        raise UserError(f"--recipe {settings.recipe}: expected --dataset, for the paper's is none of those that are "
                        "known by a name")
    if recipe.begins_with and not settings.pretrained:
        raise UserError(f"--recipe {settings.recipe}: begins with {recipe.begins_with}; name it by --pretrained")
    planned = schedule(recipe, _images_in_a_step(settings), _count_images(settings) if recipe.in_epochs else 0)
    if "epochs" in given:
        del planned["max_steps"]
    settings.update({key: value for key, value in planned.items() if key not in given})
    return settings


def _images_in_a_step(settings):
    from common.devices import get_devices
    from recognition.workers import expected_workers

    return settings.per_batch_size * len(get_devices(settings.devices)) * expected_workers()


def _count_images(settings):
    from datasets import find_dataset
    from datasets.shards import open_images

    return len(open_images(find_dataset(settings.dataset).folder, settings.data_images_filter))


def schedule(recipe, batch, num_images=0):
    """The recipe's schedule for steps of `batch` images, as a dict of settings.

    num_images: of the data set, where the recipe counts epochs. Raises UserError where nothing would be left of it.
    """
    each = num_images / batch if recipe.in_epochs else recipe.batch / batch
    drops, end = [round(step * each) for step in recipe.drops], round(recipe.end * each)
    if min([*drops, end]) < 1 or len({*drops, end}) <= len(drops):
        raise UserError(f"{batch} images in a step are too many for this recipe: nothing would be left of its "
                        "schedule; expected a smaller --per-batch-size")
    return dict(lr=recipe.settings["lr"] * batch / recipe.batch, lr_steps=",".join(map(str, drops)), max_steps=end)
