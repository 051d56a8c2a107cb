"""What the commands for IJB 1:1 and 1:N share: flags, features, what they leave behind."""
from pathlib import Path

from common.checkpoint import on_backend, parse_model
from common.cli import ArgumentParser
from common.errors import UserError
from common.flags import add_device_flags, device_names, positive
from eval import ijb, ijb_meta
from eval.ijb_features import embed_faces
from eval.results import (
    RESULTS,
    add_record_flag,
    append_record,
    make_entry,
    make_trace,
    picture,
    read_results,
    record_path,
    write_results,
)


def parse_args(description, args=None):
    """The flags, which both commands have. `model` is 'prefix,epoch', also where --model-prefix named it."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--model", default="", help="PREFIX,EPOCH of a checkpoint")
    parser.add_argument("--model-prefix", default="", help="prefix of a checkpoint, as the original has it")
    parser.add_argument("--model-epoch", type=int, default=1, help="its epoch")
    parser.add_argument("--target", type=str.upper, default="IJBC", choices=ijb_meta.TARGETS, help="the benchmark")
    parser.add_argument("--data-dir", default=".", help="folder that holds IJBB/ and IJBC/, each with meta/ and "
                        "loose_crop/")
    parser.add_argument("--variants", default="all", help="which of N0D0F0 to N1D1F1, with commas between; the first "
                        f"gives the figures of the record. {_options()}")
    parser.add_argument("--batch-size", type=positive, default=64, help="images that a device takes at once")
    parser.add_argument("--job", default="", help="name of the run in titles; empty: the model's")
    parser.add_argument("--output", default="", help="folder for features, pictures and results.json; empty: ijb/ "
                        "beside the model")
    parser.add_argument("--skip-missing", action="store_true", help="leave out images that are missing or cannot be "
                        "read; figures cannot be compared then")
    add_device_flags(parser)
    add_record_flag(parser)
    args = parser.parse_args(args)
    if bool(args.model) == bool(args.model_prefix):
        raise UserError("which model: expected either --model PREFIX,EPOCH or --model-prefix with --model-epoch")
    args.model = args.model or f"{args.model_prefix},{args.model_epoch}"
    args.job = args.job or "/".join(Path(args.model).parts[-2:])
    args.variants = ijb.parse_variants(args.variants)
    args.output = Path(args.output) if args.output else Path(parse_model(args.model)[0]).parent / "ijb"
    args.model = on_backend(args.model, args.backend)
    return args


def _options():
    return "; ".join(f"{letter}{value}: {text}" for letter, texts in ijb.OPTIONS.items()
                     for value, text in enumerate(texts))


def embed(args, images):
    """Embed the images of a benchmark with the model that the flags name. Returns a FeatureFile."""
    from common.devices import get_devices
    from common.embedder import Embedder
    from datasets.embedding_store import hash_model

    devices = get_devices(device_names(args))
    embedder = Embedder(args.model, devices, args.batch_size)
    return embed_faces(embedder, images, ijb_meta.image_folder(args.data_dir, args.target), args.output,
                       args.target.lower(), hash_model(args.model), args.skip_missing, args.batch_size * len(devices))


def build(features, images, variants):
    """Templates of the images that features are there of; see `ijb.build_templates`."""
    numbers = features.numbers
    return ijb.build_templates(features, images.templates[numbers], images.medias[numbers], images.scores[numbers],
                               variants)


def counts_line(label, counts):
    """What was evaluated, in one line. counts: name -> number."""
    return f"{label}: " + ", ".join(f"{value} {what.replace('_', ' ')}" for what, value in counts.items())


def left_out_lines(**counts):
    """Notes on what --skip-missing left out. counts: name -> (how many are left, of how many)."""
    return [f"note: {total - left} of {total} {what.replace('_', ' ')} left out for want of images: not comparable"
            for what, (left, total) in counts.items() if left < total]


def option_changes(figures, unit):
    """What each option changes, told by one figure.

    figures: dict Variant -> number, the first being compared. unit: what the number is. Returns rows [option, what it
    does, this variant, the other, difference]; options whose counterpart was not evaluated are left out.
    """
    first, rows = next(iter(figures)), []
    for place, letter in enumerate("NDF"):
        other = first._replace(**{first._fields[place]: not first[place]})
        if other in figures:
            on, off = sorted((first, other), key=lambda variant: -variant[place])
            rows.append([f"{letter}: {ijb.OPTIONS[letter][1]}", f"{unit}, {on.name}", figures[on], off.name,
                         figures[off], figures[on] - figures[off]])
    return rows


def change_lines(label, rows):
    return [f"{label} {option}: {difference:+.5f} ({unit} {on:.5f}, {name} {off:.5f})"
            for option, unit, on, name, off, difference in rows]


CHANGE_COLUMNS = ("option", "figure", "with it", "without", "figure without", "difference")


def write(args, protocol, title, figures, tables, figures_drawn, files, **more):
    """Write the pictures, the entry of results.json (others stay) and the record's row.

    figures_drawn: dict file name -> (matplotlib Figure, caption); files: of the data, for their hashes.
    """
    from eval import plots

    for name, (figure, _) in figures_drawn.items():
        plots.save(figure, args.output / name)
    entry = make_entry(protocol, args.target, title, figures, tables,
                       [picture(name, caption) for name, (_, caption) in figures_drawn.items()],
                       make_trace(args.model, files), variant=args.variants[0].name, **more)
    path = args.output / RESULTS
    others = [old for old in (read_results(path) if path.exists() else [])
              if (old["protocol"], old.get("target")) != (protocol, args.target)]
    write_results(args.output, [*others, entry])
    append_record(record_path(args.record, args.output), entry)
    print(f"pictures and {RESULTS}: {args.output}")


def line_style(variant):
    """How a variant's line is drawn: colour by N and D, dashed without the mirrored image."""
    from eval.plots import CURVES

    return dict(color=CURVES[2 * (not variant.norm) + (not variant.detector)],
                linestyle="-" if variant.flip else "--")


def name_of(rate):
    """0.0001 as '1e-4'."""
    return f"{rate:.0e}".replace("e-0", "e-")


