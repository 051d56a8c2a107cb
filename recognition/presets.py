"""Settings in three layers, each over the one before: presets (network, loss, dataset), a config file, flags.

The keys are the original's. A preset of a network or a loss may change the default of a flag.
"""
import json
from pathlib import Path

from easydict import EasyDict

from common.errors import DataError, UserError
from common.files import write_text

# Defaults of the flags and of what the original keeps in its config file.
DEFAULTS = dict(
    network="r100", loss="arcface", dataset="emore",
    models_root="./models", pretrained="", pretrained_epoch=1, ckpt=3, verbose=2000, frequent=20,
    lr=0.1, lr_steps="100000,160000,220000", wd=0.0005, mom=0.9, per_batch_size=128, kvstore="device",
    max_steps=0, epochs=0, seed=0, devices="", targets="",
    fc7_lr_mult=1.0, fc7_wd_mult=1.0, ckpt_embedding=True, data_rand_mirror=True,
)
# What a network's name changes in training; how it is built stands in `symbols`.
NETWORK_TRAINING = {"d169": dict(per_batch_size=64), "d201": dict(per_batch_size=64)}
SETTINGS_FILE = "settings.json"


def resolve(network_keys, loss_keys, flags, config_file=""):
    """Put the layers over each other.

    network_keys, loss_keys: functions name -> dict of that network's or loss's own settings; flags: dict of what the
    user typed, None where a flag was left out; config_file: path of a JSON object with any of the keys, or ''.
    Returns an EasyDict with every key. Raises UserError for an unknown key.
    """
    typed = {key: value for key, value in flags.items() if value is not None}
    typed = {**_read_config(config_file), **typed}
    names = {**DEFAULTS, **typed}
    settings = {**DEFAULTS, **loss_keys(names["loss"]), **network_keys(names["network"]),
                **NETWORK_TRAINING.get(names["network"], {})}
    for key in typed:
        if key not in settings:
            raise UserError(f"{config_file}: unknown setting {key!r} for network {names['network']} and loss "
                            f"{names['loss']}; known are: {', '.join(sorted(settings))}")
    return EasyDict({**settings, **typed})


def _read_config(path):
    if not path:
        return {}
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"--config {path}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise DataError(f"--config {path}: expected a JSON object of settings, found {type(config).__name__}")
    return config


def lr_steps(text):
    """'100000,160000' as a list of steps. Raises UserError unless they are whole numbers in rising order."""
    try:
        steps = [int(step) for step in str(text).split(",") if step.strip()]
    except ValueError:
        raise UserError(f"lr_steps {text!r}: expected whole numbers with commas between") from None
    if steps != sorted(set(steps)) or (steps and steps[0] < 1):
        raise UserError(f"lr_steps {text!r}: expected steps from 1 on, in rising order")
    return steps


def save_settings(folder, settings):
    """Write the resolved settings beside the model."""
    write_text(Path(folder) / SETTINGS_FILE, json.dumps(settings, indent=1, sort_keys=True) + "\n")
