"""Settings in three layers, each over the one before: presets (network, loss), a config file, flags.

The keys are the original's; each is also a flag, with dashes for underscores.
"""
import argparse
import json
from pathlib import Path

from easydict import EasyDict

from common.errors import UserError, unknown_name
from common.files import read_json, write_text

NAMES = ("recipe", "dataset", "network", "loss")  # these choose the other presets, and are parsed first
SETTINGS = {  # key: (default, what it is)
    "recipe": ("", "name of a paper's training, whose settings and schedule lie under those that are given: "
               "docs/recipes.md; empty: none"),
    "dataset": ("emore", "name of a data set, or a folder with train.rec"),
    "network": ("r100", "name of a network, such as r100 or y1"),
    "loss": ("arcface", "name of a loss, such as arcface or softmax"),
    "models_root": ("./models", "folder in which the model's own folder is made"),
    "pretrained": ("", "prefix of a checkpoint to begin with; empty: none"),
    "pretrained_epoch": (1, "epoch of that checkpoint"),
    "ckpt": (3, "0: save no checkpoint; 1: each that is the best so far, numbered; 2: each, numbered; 3: the best "
             "so far, as number 1"),
    "ckpt_keep": (0, "numbered checkpoints kept, the latest; 0: all"),
    "ckpt_best": (False, "also keep the best model of each verification pack, as model-best-<pack>,1"),
    "ckpt_epochs": (False, "also keep the model of the end of each epoch, as model-epoch,<number>"),
    "state_every": (1000, "steps between saves of the training's state, for --resume; 0: after verifications, at the "
                    "end of each epoch and of the training alone"),
    "state_keep": (2, "states kept, the latest; 0: none is saved, nor with --ckpt 0"),
    "verbose": (2000, "steps between verifications, after which checkpoints are saved"),
    "frequent": (20, "steps between lines of progress"),
    "report": (True, "write report.html beside the model at the end"),
    "lr": (0.1, "learning rate at the start"),
    "lr_steps": ("100000,160000,220000", "steps after which the learning rate is divided by ten"),
    "lr_warmup": (0, "steps in which the learning rate rises from 0 to --lr, in proportion"),
    "wd": (0.0005, "weight decay"),
    "mom": (0.9, "momentum of SGD"),
    "per_batch_size": (128, "images in a batch of each device"),
    "kvstore": ("device", "what sums gradients: device or local on one machine; dist_sync, dist_device_sync (MXNet's "
                "parameter server) or horovod over several"),
    "devices": ("", "devices with commas between, such as gpu0,gpu1 or cpu,cpu; empty: all GPUs, else the CPU"),
    "class_parallel": (False, "split the classes of the head over the devices, for more than one device holds"),
    "sample_rate": (1.0, "share of the classes that a step uses, those of the batch and random others (PartialFC)"),
    "max_steps": (0, "steps to train; 0: no such end"),
    "epochs": (0, "epochs to train; 0: no such end"),
    "seed": (0, "seed of everything random"),
    "targets": ("", "verification packs with commas between; empty: those of the data set"),
    "data_rand_mirror": (True, "mirror images at random"),
    "data_color": (0, "0: colours as they are; 1: change them at random; 2: that, and JPEG noise"),
    "data_cutoff": (0, "side in pixels of a square that is made grey in every second image; 0: none"),
    "data_images_filter": (0, "leave out identities with fewer images than this"),
    "bad_images": ("stop", "what a damaged image does: stop the training with its record number; skip: another image "
                   "stands in for it, and it is counted"),
    "reader_timeout": (300, "seconds in which the next batch must be read, or the training stops; 0: no end"),
    "bn_mom": (0.9, "momentum of the BatchNorm statistics"),
    "memonger": (False, "train in about half the memory and a third more time, by computing maps again"),
    "fc7_lr_mult": (1.0, "factor of the head's learning rate"),
    "fc7_wd_mult": (1.0, "factor of the head's weight decay"),
    "ckpt_embedding": (True, "save the embedding network alone; false: the head as well"),
}
_NETWORK_TRAINING = {  # network: settings of the training that it brings
    name: dict(per_batch_size=64) for name in ("d169", "d201")}
_PAIRS = dict(per_batch_size=60, lr=0.05, images_per_identity=5)
_TRIPLETS = dict(_PAIRS, triplet_bag_size=7200, triplet_max_ap=0.0)
_LOSS_TRAINING = {"triplet": _TRIPLETS, "atriplet": _TRIPLETS, "contrastive": _PAIRS}  # the same for losses
_MEANINGS = {
    "images_per_identity": "images of an identity in an epoch at most",
    "triplet_bag_size": "images at most from which triplets are mined at once",
    "triplet_max_ap": "distance beyond which genuine pairs are left out, as the loss measures it; 0: none",
}
_LEAST = dict(ckpt_keep=0, state_every=0, state_keep=0, verbose=1, frequent=1, per_batch_size=1, max_steps=0, epochs=0,
              pretrained_epoch=0, seed=0, lr=0, wd=0, mom=0, lr_warmup=0, margin_start=0, margin_warmup=0,
              images_per_identity=2, triplet_bag_size=3, triplet_max_ap=0, data_cutoff=0, data_images_filter=0,
              reader_timeout=0)
_CHOICES = dict(ckpt=(0, 1, 2, 3), data_color=(0, 1, 2), bad_images=("stop", "skip"),
                kvstore=("device", "local", "dist_sync", "dist_device_sync", "horovod"))


def own_settings(network, loss):
    """What a network and a loss can be set to, and what they bring for the training, with their own defaults.

    Raises UserError for an unknown name, listing the known ones.
    """
    from recognition import heads, pair_losses
    from symbols import network_settings

    losses = {**heads.LOSSES, **pair_losses.LOSSES}
    if loss not in losses:
        raise unknown_name("loss", loss, losses)
    return {**_NETWORK_TRAINING.get(network, {}), **_LOSS_TRAINING.get(loss, {}), **losses[loss],
            **network_settings(network)}


def resolve(own, config, typed, path=""):
    """Put the layers over each other. own: see `own_settings`; config, typed: dicts of what the file and the flags say;
    path: of the file.

    Returns an EasyDict with every key. Raises UserError for a key that is no setting and for a value it cannot have.
    """
    settings = {**{key: default for key, (default, _) in SETTINGS.items()}, **own}
    unknown = set(config) - set(settings)
    if unknown:
        raise unknown_name(f"setting in the config file {path}", min(unknown), settings)
    for key, value in config.items():
        _check_kind(path, key, value, settings[key])
    resolved = EasyDict({**settings, **config, **typed})
    for key, least in _LEAST.items():
        if resolved.get(key, least) < least:
            raise UserError(f"{key} {resolved[key]}: expected {least} or more")
    for key, known in _CHOICES.items():
        if resolved[key] not in known:
            raise unknown_name(key, resolved[key], map(str, known))
    if not 0 < resolved.sample_rate <= 1:
        raise UserError(f"sample_rate {resolved.sample_rate}: expected a share of the classes, more than 0, at most 1")
    if resolved.kvstore not in ("device", "local"):
        _check_many_machines(resolved)
    if resolved.seed >= 2 ** 32:
        raise UserError(f"seed {resolved.seed}: expected less than {2 ** 32}")
    if "images_per_identity" in resolved:
        from recognition.pair_losses import check_batch_size

        check_batch_size(resolved.loss, resolved.per_batch_size)
    return resolved


def _check_many_machines(settings):
    if settings.sample_rate < 1:
        raise UserError(f"--sample-rate {settings.sample_rate} with --kvstore {settings.kvstore}: each worker would "
                        "draw other classes; expected 1, and --class-parallel where a head is too large for a device")
    if "triplet_bag_size" in settings:
        raise UserError(f"--loss {settings.loss} with --kvstore {settings.kvstore}: triplets are mined by one worker "
                        "alone; expected another loss, or --kvstore device")


def _check_kind(path, key, value, default):
    kinds = {float: (float, int), tuple: (tuple, list), list: (tuple, list)}
    fits = isinstance(value, kinds.get(type(default), type(default)))
    if isinstance(default, (tuple, list)):
        fits = fits and all(isinstance(item, type(default[0])) for item in value)
    if not fits:
        raise UserError(f"config file {path}: {key} is {value!r}; expected something like {default!r}")


def add_flags(parser, keys, own=None):
    """Add a flag for each of `keys`. A flag that is not typed leaves no trace in what the parser returns."""
    for key in keys:
        default, meaning = SETTINGS.get(key, (None, _MEANINGS.get(key, "setting of the network or the loss")))
        default = (own or {}).get(key, default)
        switch = dict(nargs="?", const=True) if isinstance(default, bool) else {}  # --memonger, or --memonger 0
        parser.add_argument(f"--{key.replace('_', '-')}", type=_type_of(default), default=argparse.SUPPRESS, **switch,
                            help=f"{meaning} (default: {default!r})".replace("%", "%%"))


def _type_of(default):
    if isinstance(default, bool):
        return _switch
    if isinstance(default, (tuple, list)):
        return _whole_numbers
    return type(default)


def _switch(text):
    if text.lower() not in ("0", "1", "false", "true"):
        raise ValueError(text)
    return text.lower() in ("1", "true")


def _whole_numbers(text):
    return tuple(int(number) for number in text.split(","))


def read_config(path):
    """Read a config file, a JSON object. Raises DataError where it is missing or something else."""
    return read_json(path, dict) if path else {}


def lr_steps(text):
    """'100000,160000' as a list of steps. Raises UserError unless they are whole numbers in rising order."""
    try:
        steps = [int(step) for step in str(text).split(",") if step.strip()]
    except ValueError:
        raise UserError(f"--lr-steps {text}: expected whole numbers with commas between") from None
    if steps != sorted(set(steps)) or (steps and steps[0] < 1):
        raise UserError(f"--lr-steps {text}: expected steps from 1 on, in rising order")
    return steps


def save_settings(folder, settings):
    """Write the resolved settings beside the model."""
    write_text(Path(folder, "settings.json"), json.dumps(settings, indent=1, sort_keys=True) + "\n")
