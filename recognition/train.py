"""Train a face recognition network.

    python recognition/train.py --network r100 --loss arcface --dataset emore
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from common.flags import positive
from recognition import presets, recipes


def parse_args(args=None):
    """Parse the flags in two stages: what the chosen network and loss can be set to are flags too.

    Returns (resolved settings, the other flags).
    """
    parser = ArgumentParser(description="Train a face recognition network.", add_help=False)
    presets.add_flags(parser, presets.NAMES)
    parser.add_argument("--config", default="", help="JSON file of settings; they go over the presets, flags over them")
    parser.add_argument("--resume", action="store_true", help="go on with the training in the model's folder, where "
                        "one is; see docs/resume.md")
    parser.add_argument("--benchmark", action="store_true", help="train on one synthetic batch and print samples/s")
    parser.add_argument("--test-io", action="store_true", help="read one epoch without training and print samples/s")
    parser.add_argument("--num-classes", type=positive, help="classes of --benchmark; left out: those of the data set")
    first, _ = parser.parse_known_args(args)
    config = presets.read_config(first.config)
    recipe = recipes.get_recipe(vars(first).get("recipe", config.get("recipe", "")))
    given, config = config, {**recipe.settings, **config}
    names = presets.resolve({}, {key: config[key] for key in presets.NAMES if key in config},
                            {key: value for key, value in vars(first).items() if key in presets.NAMES}, first.config)
    own = presets.own_settings(names.network, names.loss)
    keys = [key for key in {**presets.SETTINGS, **own} if key not in presets.NAMES + ("net_name",)]
    presets.add_flags(parser, keys, own)
    parser.add_argument("-h", "--help", action="help", help="show this and exit")
    flags = parser.parse_args(args)
    typed = {key: value for key, value in vars(flags).items() if key in presets.NAMES or key in keys}
    its_loss = names.loss == recipe.settings.get("loss")
    fitting = {key: value for key, value in config.items() if key in {**presets.SETTINGS, **given} or its_loss}
    settings = presets.resolve(own, fitting, typed, flags.config)
    return recipes.with_schedule(settings, recipe, {**given, **typed}), flags


def main():
    settings, flags = parse_args()
    from recognition import experiment

    if flags.test_io:
        print(f"{experiment.test_io(settings):.1f} samples/s")
    elif flags.benchmark:
        rate = experiment.benchmark(settings, flags.num_classes)
        if rate is not None:
            print(f"{rate:.1f} samples/s")
    else:
        experiment.train(settings, flags.resume)


if __name__ == "__main__":
    run(main)
