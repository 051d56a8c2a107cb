"""An experiment from its resolved settings: everything is built here, and handed to the loop."""
import time
from functools import partial
from itertools import islice
from math import prod
from pathlib import Path

from common.checkpoint import load_pretrained
from common.devices import get_devices
from common.embedder import Embedder
from common.errors import UserError
from common.log import RunLog
from common.mxnet_setup import mx
from datasets import find_dataset, list_targets
from datasets.identity_iter import IdentityIter
from datasets.image_iter import ImageIter, SyntheticIter
from datasets.shards import open_images
from datasets.targets import load_target
from eval.results import make_trace
from eval.verification import check_pack
from recognition import callbacks, memory, pair_losses, presets
from recognition import resume as resuming
from recognition.class_parallel import split_classes, split_loss
from recognition.heads import LOSSES, classification_loss, get_head
from recognition.partial_fc import PartialTrainer, sample_sizes
from recognition.signals import Stopped, StopSignals
from recognition.split_trainer import SplitTrainer
from recognition.trainer import LABEL, NotFinite, Trainer, fit
from recognition.triplet_iter import TripletIter
from symbols import get_symbol, network_settings
from symbols.flops import flops

_WARM_UP, _BENCHMARK_STEPS = 5, 30  # memory is allocated in the first steps, which a benchmark leaves out


def model_prefix(settings):
    """Where the model goes: <models_root>/<network>-<loss>-<data set>/model."""
    dataset = Path(settings.dataset).resolve().name
    return Path(settings.models_root, f"{settings.network}-{settings.loss}-{dataset}", "model")


def train(settings, resume=False):
    """Read, train, verify and save, as `settings` say (see `presets.resolve`). Returns the model's prefix.

    resume: go on with the training that is in the model's folder, see docs/resume.md. Asked to stop by SIGINT or
    SIGTERM, it saves its state and raises what `StopSignals.end` does.
    """
    dataset = find_dataset(settings.dataset)
    packs, missing = _packs(settings, dataset)
    training_set = open_images(dataset.folder, settings.data_images_filter)
    batches = _batches(settings, training_set)
    prefix, trace = model_prefix(settings), _trace(dataset, packs)
    about = resuming.about(settings, get_devices(settings.devices), dataset.folder, trace["files"])
    state, said = resuming.find_state(prefix, about) if resume else (None, [])
    told = memory_lines(settings, dataset.num_classes, dataset.image_shape)
    trainer = make_trainer(settings, batches, dataset.num_classes, state)
    said += [] if state else resuming.set_aside(prefix)
    log, total = RunLog(prefix.parent, trainer.steps if state else None), _total_steps(settings, batches.num_batches)
    resuming.remove_unfinished(prefix.parent)
    description = _description(settings, trainer, training_set, batches, total) + told + missing + said
    for line in description:
        log.line(line)
    log.record("resume" if state else "start", step=trainer.steps, description=description[1:], trace=trace)
    presets.save_settings(prefix.parent, settings)
    if isinstance(batches, TripletIter):
        batches.connect(lambda: Embedder.from_params(trainer.embedding, *trainer.params(), trainer.devices,
                                                     image_shape=dataset.image_shape), log.line)
    stored = _stored(settings, dataset.num_classes, trainer.embedding)
    with StopSignals() as stopped:
        try:
            parts = _callbacks(settings, log, total, packs, stored, batches, about, stopped)
            if state:
                resuming.restore(state, batches, parts)
            ended = _fit(settings, trainer, batches, parts, log, stopped)
        finally:
            batches.close()
            if settings.report:
                _report(prefix.parent, log)
            log.close()
    if not ended:
        stopped.end()
    return prefix


def _trace(dataset, packs):
    files = [path for name in ("property", "train.idx", "train.checksums")  # train.rec would take minutes to hash
             for path in [dataset.folder / name] if path.is_file()] + [path for pack in packs for path in pack.files]
    return make_trace(files=files)


def _stored(settings, num_classes, embedding):
    """The symbol that a checkpoint is of."""
    if settings.ckpt_embedding or settings.loss not in LOSSES:
        return embedding
    label = mx.sym.Variable(LABEL)
    return mx.sym.SoftmaxOutput(_head(settings, num_classes, embedding, label).logits, label, name="softmax",
                                normalization="valid")


def _callbacks(settings, log, total, packs, stored, batches, about, stopped):
    """[Progress, Verification, Checkpoint, and StateSaver unless no state is to be saved]."""
    prefix = model_prefix(settings)
    progress = callbacks.Progress(log, settings.frequent, total)
    verification = callbacks.Verification(log, packs, settings.verbose, progress, stopped=stopped)
    saver = callbacks.Checkpoint(log, prefix, settings.ckpt, verification, callbacks.save_symbol(stored),
                                 settings.ckpt_keep, settings.ckpt_best, settings.ckpt_epochs)
    parts = [progress, verification, saver]
    if settings.ckpt and settings.state_keep:
        parts.append(resuming.StateSaver(log, prefix, settings.state_every, settings.state_keep, batches, parts[:],
                                         about))
    return parts


def _fit(settings, trainer, batches, parts, log, stopped):
    """Train; returns whether it came to its end, False where it was asked to stop before, and has saved its state."""
    saver, state_savers = parts[2], parts[3:]
    try:
        try:
            ended = fit(trainer, batches, parts, settings.max_steps, settings.epochs, stopped)
        except Stopped:
            ended = False
        if not ended:
            for state_saver in state_savers:
                state_saver.save(trainer)
            log.line(f"stopped after step {trainer.steps}; " + (
                "--resume goes on from there" if state_savers else "no state is saved with --ckpt 0 or --state-keep 0"))
    except NotFinite as error:
        kept = f"the last good checkpoint is {saver.path}" if saver.path else "no checkpoint had been saved"
        raise UserError(f"{error}; {kept}; {_advice(settings)}") from error
    if ended and saver.failure:
        raise UserError(f"the last model is not saved: {saver.failure}")
    return ended


def _report(folder, log):
    """Write report.html into the model's folder. Whatever hinders it, the training stays what it is."""
    try:
        from eval.report import write_report

        log.line(f"report: {write_report([folder], folder / 'report.html')}")
    except Exception as error:  # a page is not worth a training
        log.line(f"warning: no report: {type(error).__name__}: {error}")


def _advice(settings):
    """What to change where a training came to numbers that are not finite."""
    tries = [f"a lower --lr than {settings.lr:g}", f"a longer --lr-warmup than {settings.lr_warmup}"]
    if "margin_warmup" in settings and settings.loss != "nsoftmax":
        tries.append(f"a longer --margin-warmup than {settings.margin_warmup}")
    if not settings.pretrained:
        tries.append("--pretrained with a model that --loss softmax has trained")
    return "try " + ", or ".join(tries)


def benchmark(settings, num_classes=None):
    """Samples per second of training on one synthetic batch; num_classes: None for those of the data set."""
    devices = get_devices(settings.devices)
    num_classes = num_classes or find_dataset(settings.dataset).num_classes
    batches = SyntheticIter(settings.per_batch_size * len(devices), (112, 112), num_classes, settings.seed)
    trainer = make_trainer(settings, batches, num_classes)
    return _rate(trainer.step, batches, settings.max_steps or _BENCHMARK_STEPS)


def test_io(settings):
    """Samples per second of the reader alone, over one epoch or `max_steps` batches; triplets are not mined."""
    images = open_images(find_dataset(settings.dataset).folder, settings.data_images_filter)
    batches = _batches(settings, images, mined=False)
    steps = min(settings.max_steps or batches.num_batches, batches.num_batches)
    rate = _rate(lambda batch: None, batches, steps, warm_up=0)
    batches.close()
    return rate


def _rate(step, batches, steps, warm_up=_WARM_UP):
    for batch in islice(batches, warm_up):
        step(batch)
    mx.nd.waitall()
    started = time.time()
    for batch in islice(batches, steps):
        step(batch)
    mx.nd.waitall()
    return steps * batches.batch_size / (time.time() - started)


def _batches(settings, training_set, mined=True):
    devices = len(get_devices(settings.devices))
    how = dict(batch_size=settings.per_batch_size * devices, seed=settings.seed, rand_mirror=settings.data_rand_mirror,
               color=settings.data_color, cutoff=settings.data_cutoff)
    if "images_per_identity" not in settings:
        return ImageIter(training_set, **how)
    how.update(images_per_identity=settings.images_per_identity)
    if "triplet_bag_size" not in settings or not mined:
        return IdentityIter(training_set, **how)
    return TripletIter(training_set, num_devices=devices, bag_size=settings.triplet_bag_size, alpha=settings.loss_alpha,
                       max_ap=settings.triplet_max_ap, angular=settings.loss == "atriplet", **how)


def _packs(settings, dataset):
    """The verification packs, and a line for each of the data set's own that is not there; one asked for must be.

    They are checked now, not when they are first used after thousands of steps.
    """
    asked = [name.strip() for name in settings.targets.split(",") if name.strip()]
    names = asked or [name for name in dataset.val_targets if name in list_targets(dataset.folder)]
    missing = [f"no verification pack {name}.bin in {dataset.folder}" for name in dataset.val_targets
               if not asked and name not in names]
    packs = [load_target(dataset.target_path(name), dataset.image_shape) for name in names]
    for pack in packs:
        check_pack(pack)
    return packs, missing


def make_trainer(settings, batches, num_classes, state=None):
    """A Trainer of the network and the head that `settings` name, which goes on from a TrainingState, or else begins
    with the pretrained model if one is named."""
    mx.random.seed(settings.seed)
    embedding = _network(settings)
    arg_params, aux_params = {}, {}
    if settings.pretrained and not state:
        head = dict(fc7_weight=(num_classes * settings.get("loss_k", 1), settings.emb_size), fc7_bias=(num_classes,))
        arg_params, aux_params = load_pretrained(
            settings.pretrained, settings.pretrained_epoch, embedding, (1,) + batches.provide_data[0].shape[1:],
            **(head if settings.loss in LOSSES else {}))
    devices = get_devices(settings.devices)
    make = partial(Trainer, embedding, lambda network, label: _loss(settings, num_classes, network, label))
    if settings.class_parallel or settings.sample_rate < 1 or _is_large(settings, num_classes, devices):
        make = _split_trainer(settings, num_classes, embedding, devices)
    return make(devices, batches, _initializer(settings.net_name), arg_params, aux_params, settings.lr,
                presets.lr_steps(settings.lr_steps), settings.mom, settings.wd,
                {"fc7_weight": (settings.fc7_lr_mult, settings.fc7_wd_mult)}, settings.kvstore, settings.lr_warmup,
                seed=settings.seed, resumed=state)


def _network(settings):
    return get_symbol(settings.network, **{key: settings[key] for key in network_settings(settings.network)})


def memory_lines(settings, num_classes, image_shape):
    """What the training will take of each device, see `memory.tell`, which refuses what cannot fit."""
    devices = get_devices(settings.devices)
    needs = memory.network_bytes(_network(settings), devices[0], (settings.per_batch_size, 3, *image_shape),
                                 settings.memonger)
    if settings.loss in LOSSES:
        needs.update(_head_bytes(settings, num_classes, len(devices)))
    return memory.tell(needs, devices)


def _head_bytes(settings, num_classes, num_devices):
    centres, batch_size = settings.get("loss_k", 1), settings.per_batch_size
    if not settings.class_parallel and settings.sample_rate == 1 and num_devices > 1:
        return memory.head_bytes(settings.loss, num_classes * centres, settings.emb_size, batch_size)
    parts = split_classes(num_classes, num_devices, centres, settings.sample_rate)
    batch_size, stored = batch_size * num_devices, -(-num_classes // num_devices) * centres
    if settings.sample_rate == 1:
        return memory.head_bytes(settings.loss, stored, settings.emb_size, batch_size, block=parts[0] * centres)
    sizes = sample_sizes(parts, settings.sample_rate, batch_size)
    rows = -(-sum(sizes) // num_devices) * centres
    return memory.head_bytes(settings.loss, rows, settings.emb_size, batch_size, stored, sizes[0] * centres)


def _is_large(settings, num_classes, devices):
    """Whether a head on one device is better worked off in parts."""
    return (len(devices) == 1 and settings.loss in LOSSES
            and len(split_classes(num_classes, 1, settings.get("loss_k", 1))) > 1)


def _split_trainer(settings, num_classes, embedding, devices):
    """A SplitTrainer or PartialTrainer that lacks what every Trainer is told."""
    flag = "--class-parallel" if settings.sample_rate == 1 else "--sample-rate"
    if settings.loss not in LOSSES:
        raise UserError(f"{flag}: --loss {settings.loss} has no classes to split; leave the flag out")
    if num_classes < len(devices):
        raise UserError(f"{flag}: {num_classes} classes for {len(devices)} devices; expected at least one for each")
    own = {key: settings[key] for key in LOSSES[settings.loss]}
    if settings.sample_rate == 1:
        counts = split_classes(num_classes, len(devices), own.get("loss_k", 1))
        return partial(SplitTrainer, embedding, _split_loss(settings, counts, own), counts)
    if settings.loss == "centre" or own.get("loss_inter") or own.get("loss_mhe") or not own.get("fc7_no_bias", True):
        raise UserError(f"--sample-rate {settings.sample_rate}: not with the centre loss, --loss-inter, --loss-mhe or "
                        "a bias (--fc7-no-bias 1), which need every class in every step")
    counts = split_classes(num_classes, len(devices), own.get("loss_k", 1), settings.sample_rate)
    sizes = sample_sizes(counts, settings.sample_rate, settings.per_batch_size * len(devices))
    return partial(PartialTrainer, embedding, _split_loss(settings, sizes, own), counts, sizes)


def _split_loss(settings, counts, own):
    return lambda network, label: split_loss(settings.loss, network, label, counts, settings.emb_size, **own)


def _loss(settings, num_classes, embedding, label):
    """The outputs of the training graph."""
    if settings.loss in LOSSES:
        return classification_loss(_head(settings, num_classes, embedding, label), label)
    own = {key: settings[key] for key in pair_losses.LOSSES[settings.loss]}
    return pair_losses.get_loss(settings.loss, embedding, label, **own)


def _head(settings, num_classes, embedding, label):
    own = {key: settings[key] for key in LOSSES[settings.loss]}
    return get_head(settings.loss, embedding, label, num_classes, settings.emb_size, **own)


def _initializer(family):
    if family in ("fresnet", "fmobilefacenet"):
        return mx.init.Xavier("gaussian", "out", 2)
    return mx.init.Xavier("uniform", "in", 2)


def _total_steps(settings, steps_per_epoch):
    """Steps of the whole run; 0 where there is no end, or epochs of unknown length (steps_per_epoch None)."""
    ends = [end for end in (settings.max_steps, settings.epochs * (steps_per_epoch or 0)) if end]
    return min(ends) if ends else 0


def _description(settings, trainer, training_set, batches, total):
    shape = (1, 3) + training_set.image_shape
    sizes = trainer.embedding.infer_shape(data=shape)[0]
    count = sum(prod(size) for name, size in zip(trainer.embedding.list_arguments(), sizes) if name != "data")
    warm_up = f" reached in {settings.lr_warmup} steps" if settings.lr_warmup else ""
    steps = f"{batches.num_batches:,} steps" if batches.num_batches else "as many steps as triplets are found for,"
    end = f"{settings.epochs} epochs" if settings.epochs else "no end set (--max-steps, --epochs): stop it with Ctrl-C"
    end = f"{total} steps" if total else end
    return [
        "settings: " + " ".join(f"{key}={value}" for key, value in sorted(settings.items())),
        f"network {settings.network}: {count:,} parameters, {flops(trainer.embedding, shape) / 1e9:.2f} GFLOPs a face",
        f"data set {training_set.folder}: {training_set.num_classes:,} identities, {len(training_set):,} images of "
        f"{shape[2]}x{shape[3]}; {steps} of {batches.batch_size} "
        f"images an epoch on {', '.join(map(str, trainer.devices))}",
        f"learning rate {settings.lr:g}{warm_up}, divided by ten after steps {settings.lr_steps or 'none'}; {end}",
    ]

