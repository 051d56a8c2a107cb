"""An experiment from its resolved settings: everything is built here, and handed to the loop."""
import time
from functools import partial
from itertools import islice
from math import prod
from pathlib import Path
from typing import List, NamedTuple, Optional

from common.checkpoint import load_pretrained
from common.devices import get_devices
from common.embedder import Embedder
from common.errors import UserError
from common.log import RunLog
from common.mxnet_setup import mx
from datasets import find_dataset, list_targets
from datasets.bad_images import BadImages
from datasets.identity_iter import IdentityIter
from datasets.image_iter import ImageIter, SyntheticIter
from datasets.shards import open_images
from datasets.targets import load_target
from eval.results import make_trace
from eval.verification import check_pack
from recognition import callbacks, guards, memory, pair_losses, presets, recipes
from recognition import resume as resuming
from recognition.class_parallel import split_classes, split_loss
from recognition.heads import LOSSES, classification_loss, get_head, sub_centres
from recognition.partial_fc import PartialTrainer, sample_sizes
from recognition.signals import Stopped, StopSignals
from recognition.split_trainer import SplitTrainer
from recognition.trainer import LABEL, NotFinite, Trainer, fit
from recognition.triplet_iter import TripletIter
from recognition.workers import Alone, connect
from symbols import get_symbol, network_settings
from symbols.flops import flops

_HASHED = ("property", "train.idx", "train.checksums")  # of a data set; train.rec would take minutes
_WARM_UP, _BENCHMARK_STEPS = 5, 30  # memory is allocated in the first steps, which a benchmark leaves out


def model_prefix(settings):
    """Where the model goes: <models_root>/<network>-<loss>-<data set>/model."""
    dataset = Path(settings.dataset).resolve().name
    return Path(settings.models_root, f"{settings.network}-{settings.loss}-{dataset}", "model")


def train(settings, resume=False):
    """Read, train, verify and save, as `settings` say (see `presets.resolve`). Returns the model's prefix.

    resume: go on with the training that is in the model's folder, see docs/resume.md. Asked to stop by SIGINT or
    SIGTERM, it saves its state and raises what `StopSignals.end` does.
    Of several workers (--kvstore dist_sync and others) the first alone says, verifies and saves; the others meanwhile
    go on to the next step, whose sum they wait for.
    """
    with connect(settings.kvstore) as workers:
        return _train(settings, resume, workers)


def _train(settings, resume, workers):
    leads, prefix = workers.rank == 0, model_prefix(settings)
    dataset = find_dataset(settings.dataset)
    packs, missing = _packs(settings, dataset) if leads else ([], [])
    training_set = open_images(dataset.folder, settings.data_images_filter)
    watch = guards.Guards(settings, training_set)
    batches, trace = _batches(settings, training_set, workers, watch.bad_images), _trace(dataset, packs)
    about = resuming.about(settings, get_devices(settings.devices) * workers.size, dataset.folder, trace["files"])
    workers.check(_shared_facts(settings, batches, about))
    state, said = resuming.find_state(prefix, about) if resume and leads else (None, [])
    state = resuming.share_state(state, workers)
    told = memory_lines(settings, dataset.num_classes, dataset.image_shape)
    trainer = make_trainer(settings, batches, dataset.num_classes, workers, state)
    log, said = _begin_log(settings, prefix, state, said) if leads else (RunLog(quiet=True), [])
    total = _total_steps(settings, batches.num_batches)
    description = _description(settings, trainer, training_set, batches, total) + told + missing + said
    for line in description:
        log.line(line)
    log.record("resume" if state else "start", step=trainer.steps, description=description[1:], trace=trace)
    if isinstance(batches, TripletIter):
        batches.connect(lambda: Embedder.from_params(trainer.embedding, *trainer.params(), trainer.devices,
                                                     image_shape=dataset.image_shape), log.line)
    stored = _stored(settings, dataset.num_classes, trainer.embedding)
    with StopSignals() as stopped:
        try:
            parts = _callbacks(settings, log, total, packs, stored, batches, about, stopped, trainer, watch)
            if state:
                resuming.restore(state, batches, parts.present())
            ended = _fit(settings, trainer, batches, parts, log, stopped)
        except UserError as error:
            log.record("warning", step=trainer.steps, target="stopped", text=str(error))
            raise
        finally:
            batches.close()
            watch.finish(log, trainer)
            if settings.report and leads:
                _report(prefix.parent, log)
            log.close()
    if not ended:
        stopped.end()
    return prefix


def _trace(dataset, packs):
    files = [path for name in _HASHED for path in [dataset.folder / name] if path.is_file()]
    return make_trace(files=files + [path for pack in packs for path in pack.files])


def _stored(settings, num_classes, embedding):
    """The symbol that a checkpoint is of."""
    if settings.ckpt_embedding or settings.loss not in LOSSES:
        return embedding
    label = mx.sym.Variable(LABEL)
    return mx.sym.SoftmaxOutput(_head(settings, num_classes, embedding, label).logits, label, name="softmax",
                                normalization="valid")


class _Callbacks(NamedTuple):
    """What happens around the steps; before, after: what watches over the training, see `guards.Guards`; the last three
    of the first worker alone."""

    before: List
    progress: callbacks.Progress
    after: List
    gather: callbacks.Gather
    verification: Optional[callbacks.Verification] = None
    checkpoint: Optional[callbacks.Checkpoint] = None
    state_saver: Optional[resuming.StateSaver] = None

    def present(self):
        """Those that there are, a list."""
        return [*self.before, self.progress, *self.after, *filter(None, self[3:])]


def _callbacks(settings, log, total, packs, stored, batches, about, stopped, trainer, watch):
    """The _Callbacks of a worker; state_saver is None where no state is to be saved."""
    prefix, workers = model_prefix(settings), trainer.workers
    progress = callbacks.Progress(log, settings.frequent, total)
    before, after = watch.callbacks(log, progress, trainer)
    gather = callbacks.Gather(settings.verbose, settings.state_every)
    if workers.rank:
        return _Callbacks(before, progress, after, gather)
    # Of several workers none stops in a verification, for the others would wait
    asked = dict(stopped=stopped) if workers.size == 1 else {}
    verification = callbacks.Verification(log, packs, settings.verbose, progress, **asked)
    saver, state_saver = callbacks.Checkpoint(log, prefix, settings.ckpt, verification, callbacks.save_symbol(stored),
                                              settings.ckpt_keep, settings.ckpt_best, settings.ckpt_epochs), None
    if settings.ckpt and settings.state_keep:
        state_saver = resuming.StateSaver(log, prefix, settings.state_every, settings.state_keep, batches,
                                          [progress, verification, saver, *after], about)
    return _Callbacks(before, progress, after, gather, verification, saver, state_saver)


def _fit(settings, trainer, batches, parts, log, stopped):
    """Train; returns whether it came to its end, False where it was asked to stop before, and has saved its state."""
    saver, state_saver = parts.checkpoint, parts.state_saver
    try:
        try:
            ended = fit(trainer, batches, parts.present(), settings.max_steps, settings.epochs,
                        trainer.workers.agree(stopped))
        except Stopped:
            ended = False
        if not ended:
            trainer.gather()
            if state_saver:
                state_saver.save(trainer)
            log.line(f"stopped after step {trainer.steps}; " + (
                "--resume goes on from there" if state_saver else "no state is saved with --ckpt 0 or --state-keep 0"))
    except NotFinite as error:
        kept = "no checkpoint had been saved"
        if trainer.workers.rank or saver.path:
            kept = f"the last good checkpoint is {saver.path if saver else 'with the first worker'}"
        raise UserError(f"{error}; {kept}; {guards.finite_advice(settings)}") from error
    if ended and saver and saver.failure:
        raise UserError(f"the last model is not saved: {saver.failure}")
    return ended


def _begin_log(settings, prefix, state, said):
    """The log in the model's folder, made ready for this training; and what there is to say, `said` among it."""
    said = said + ([] if state else resuming.set_aside(prefix))
    log = RunLog(prefix.parent, state.numbers["step"] if state else None)
    resuming.remove_unfinished(prefix.parent)
    presets.save_settings(prefix.parent, settings)
    return log, said


def _shared_facts(settings, batches, about):
    """What the workers must agree on: settings, but for those that name things of a machine, batches, and data."""
    shared = {key: value for key, value in settings.items()
              if key not in ("dataset", "models_root", "pretrained", "devices", "targets", "report")}
    return {**shared, "images in a batch": batches.batch_size, "batches in an epoch": batches.num_batches,
            **{name: about["data"].get(name, "missing") for name in _HASHED}}


def _report(folder, log):
    """Write report.html into the model's folder. Whatever hinders it, the training stays what it is."""
    try:
        from eval.report import write_report

        log.line(f"report: {write_report([folder], folder / 'report.html')}")
    except Exception as error:  # a page is not worth a training
        log.line(f"warning: no report: {type(error).__name__}: {error}")


def benchmark(settings, num_classes=None):
    """Samples per second of training on one synthetic batch; num_classes: None for those of the data set.

    Of several workers the first returns what all do together, the others None.
    """
    devices = get_devices(settings.devices)
    num_classes = num_classes or find_dataset(settings.dataset).num_classes
    with connect(settings.kvstore) as workers:
        batches = SyntheticIter(settings.per_batch_size * len(devices), (112, 112), num_classes, settings.seed)
        trainer = make_trainer(settings, batches, num_classes, workers)
        rate = _rate(trainer.step, batches, settings.max_steps or _BENCHMARK_STEPS)
    return None if workers.rank else rate * workers.size


def test_io(settings):
    """Samples per second of the reader alone, over one epoch or `max_steps` batches; triplets are not mined."""
    images = open_images(find_dataset(settings.dataset).folder, settings.data_images_filter)
    bad_images = BadImages(len(images), lambda number, why: print(f"warning: {why}"))
    batches = _batches(settings, images, Alone(), bad_images if settings.bad_images == "skip" else None, mined=False)
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


def _batches(settings, training_set, workers, bad_images, mined=True):
    devices = len(get_devices(settings.devices))
    how = dict(batch_size=settings.per_batch_size * devices, seed=settings.seed, rand_mirror=settings.data_rand_mirror,
               color=settings.data_color, cutoff=settings.data_cutoff, bad_images=bad_images,
               timeout=settings.reader_timeout, part_index=workers.rank, num_parts=workers.size)
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


def make_trainer(settings, batches, num_classes, workers=None, state=None):
    """A Trainer of the network and the head that `settings` name, which goes on from a TrainingState, or else begins
    with the pretrained model if one is named. workers: see `recognition.workers.connect`; None: this process alone."""
    mx.random.seed(settings.seed)
    embedding = _network(settings)
    arg_params, aux_params = {}, {}
    if settings.pretrained and not state:
        arg_params, aux_params = _pretrained(settings, embedding, num_classes, batches.provide_data[0].shape[1:])
    devices = get_devices(settings.devices)
    make = partial(Trainer, embedding, lambda network, label: _loss(settings, num_classes, network, label))
    if settings.class_parallel or settings.sample_rate < 1 or _is_large(settings, num_classes, devices):
        make = _split_trainer(settings, num_classes, embedding, devices)
    return make(devices, batches, _initializer(settings.net_name), arg_params, aux_params, settings.lr,
                presets.lr_steps(settings.lr_steps), settings.mom, settings.wd,
                {"fc7_weight": (settings.fc7_lr_mult, settings.fc7_wd_mult)}, workers, settings.lr_warmup,
                seed=settings.seed, resumed=state)


def _pretrained(settings, embedding, num_classes, image_shape):
    """Parameters of the pretrained model; a head with one centre a class becomes one of `loss_k` sub-centres."""
    centres, width = settings.get("loss_k", 1), settings.emb_size
    head = dict(fc7_weight=(num_classes * centres, width), fc7_bias=(num_classes,))

    def adapt(arg_params):
        if centres > 1 and "fc7_weight" in arg_params and arg_params["fc7_weight"].shape == (num_classes, width):
            arg_params["fc7_weight"] = sub_centres(arg_params["fc7_weight"], centres)

    return load_pretrained(settings.pretrained, settings.pretrained_epoch, embedding, (1,) + image_shape, adapt,
                           **(head if settings.loss in LOSSES else {}))


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
    shape, workers = (1, 3) + training_set.image_shape, trainer.workers.size
    sizes = trainer.embedding.infer_shape(data=shape)[0]
    count = sum(prod(size) for name, size in zip(trainer.embedding.list_arguments(), sizes) if name != "data")
    warm_up = f" reached in {settings.lr_warmup} steps" if settings.lr_warmup else ""
    steps = f"{batches.num_batches:,} steps" if batches.num_batches else "as many steps as triplets are found for,"
    end = f"{settings.epochs} epochs" if settings.epochs else "no end set (--max-steps, --epochs): stop it with Ctrl-C"
    end = f"{total} steps" if total else end
    devices = ", ".join(map(str, trainer.devices)) + (f" of each of {workers} workers" if workers > 1 else "")
    recipe = recipes.describe(settings.recipe) if settings.recipe else []
    return [
        "settings: " + " ".join(f"{key}={value}" for key, value in sorted(settings.items())),
        f"network {settings.network}: {count:,} parameters, {flops(trainer.embedding, shape) / 1e9:.2f} GFLOPs a face",
        f"data set {training_set.folder}: {training_set.num_classes:,} identities, {len(training_set):,} images of "
        f"{shape[2]}x{shape[3]}; {steps} of {batches.batch_size * workers} images an epoch on {devices}",
        *recipe,
        f"learning rate {settings.lr:g}{warm_up}, divided by ten after steps {settings.lr_steps or 'none'}; {end}",
    ]

