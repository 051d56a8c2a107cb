"""A tree of photographs made into the same tree of aligned faces."""
import csv
import json
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque, namedtuple
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common.cores import cpu_count
from common.errors import DataError, UserError
from common.face_align import DegenerateLandmarks, align, template
from common.files import open_plain, read_json, replacing, write_text
from datasets.images import SUFFIXES, UnreadableImage, cover, decode_bgr, read_image
from datasets.landmarks import COLUMNS, LandmarkTable

SETTINGS, FOUND, DROPPED = "align.json", "landmarks.csv", "dropped.csv"  # written beside the aligned faces
FORMATS = ("jpg", "png")
SAME_TIME = 2  # seconds to which the coarsest file systems round a file's time
SHOWN = 10

_Settings = namedtuple("_Settings", "image_size format quality centre_crop min_size thresholds detector")
_Job = namedtuple("_Job", "image source target numbers refused")  # numbers: a line of a landmark file, or None
_Result = namedtuple("_Result", "image numbers reason written")  # one of numbers and reason is None


@dataclass
class Summary:
    """What became of the photographs.

    aligned, skipped: how many faces were written now, and were there already; dropped: reasons and how many photographs
    have them; unreadable: messages of the first photographs that could not be read.
    """

    aligned: int = 0
    skipped: int = 0
    dropped: Counter = field(default_factory=Counter)
    unreadable: list = field(default_factory=list)


def align_folder(folder, output, landmarks=None, detector=None, image_size=(112, 112), format="jpg", quality=95,
                 centre_crop=False, min_size=40, thresholds=(0.6, 0.7, 0.7), overwrite=False, workers=None,
                 progress=True):
    """Align the face of every photograph below a folder and write it to the same place below another.

    folder: a tree of photographs; output: a folder, new, empty, or made by this function; a run that was stopped goes
    on where it was. landmarks: a landmark file (see `LandmarkTable`) or detector: a folder of MTCNN's checkpoints.
    image_size: (height, width), see `face_align.template`. format: one of FORMATS; quality: of JPEGs, 1 to 100.
    centre_crop: what has no face is not dropped: its middle is taken. min_size: of the longer side of a face's box, in
    pixels; thresholds: of the detector. overwrite: begin anew. workers: processes (default: one for each core);
    progress: show a bar. Beside the faces are written landmarks.csv (what was found), dropped.csv (path and reason)
    and align.json (the settings). Returns a Summary.
    Raises UserError and DataError for what cannot be used, before anything is written, and UserError where the system
    refuses to write.
    """
    settings = _Settings(tuple(image_size), format, quality, centre_crop, min_size, tuple(thresholds),
                         None if detector is None else str(detector))
    workers = cpu_count() if workers is None else workers
    if workers < 1:
        raise UserError(f"{workers} workers; expected at least 1")
    folder, output = Path(folder), Path(output)
    _check(settings, folder, output, landmarks)
    given = None if landmarks is None else LandmarkTable(landmarks)
    total = sum(1 for _ in walk(folder))
    if not total:
        raise DataError(f"{folder}: no photographs; expected {', '.join(SUFFIXES)} in it or its sub-folders")
    known = _begin(settings, output, landmarks, overwrite)
    summary = Summary()
    with tqdm(total=total, unit="image", disable=not progress) as bar, _tables(output) as (found, dropped):
        jobs = _to_do(settings, folder, output, given, known, summary, bar)
        for result in _mapped(partial(_process, settings), jobs, workers):
            _note(result, summary, found, dropped)
            bar.update()
    return summary


def _check(settings, folder, output, landmarks):
    template(settings.image_size)
    if (landmarks is None) == (settings.detector is None):
        raise UserError("where the faces are: expected either a landmark file or a detector")
    if settings.format not in FORMATS or not 1 <= settings.quality <= 100:
        raise UserError(f"format {settings.format!r} with quality {settings.quality}; expected jpg or png, 1 to 100")
    if settings.min_size < 1:
        raise UserError(f"smallest face {settings.min_size} pixels; expected at least 1")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    if folder.resolve() in (output.resolve(), *output.resolve().parents):
        raise UserError(f"{output}: lies in {folder}, among the photographs; choose a folder beside it")
    if settings.detector is not None:
        _detector(settings)  # an error shows here, rather than in another process


@lru_cache(maxsize=1)
def _detector(settings):
    return open_detector(settings.detector, settings.min_size, settings.thresholds)


def open_detector(folder, min_size=40, thresholds=(0.6, 0.7, 0.7)):
    """A `common.mtcnn.Detector`, without what MXNet says of each of its old symbols."""
    from common.mtcnn import Detector
    with _silenced():
        return Detector(folder, min_size, thresholds)


@contextmanager
def _silenced():
    """Send what is written to the error stream, from C too, nowhere. Exceptions are not written but raised."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def walk(folder):
    """Photographs below a folder, sorted: (path as text, name of another one whose face takes its place, or None)."""
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not _leads_up(Path(where, name)))
        stems = {}
        for path in sorted(Path(where, name) for name in files if not name.startswith(".")):
            if path.suffix.lower() in SUFFIXES:
                first = stems.setdefault(path.stem, path)
                yield path.relative_to(folder).as_posix(), None if first is path else first.name


def _leads_up(folder):
    """Whether a folder is a link to one that it lies in itself."""
    return folder.is_symlink() and folder.resolve() in folder.parent.resolve().joinpath("_").parents


def _begin(settings, output, landmarks, overwrite):
    """Hold the settings against those the folder was begun with, and note them. Returns what it has landmarks of."""
    told = dict(settings._asdict(), detector=settings.detector and "MTCNN",
                landmarks=landmarks and Path(landmarks).name)
    told = json.loads(json.dumps(told))  # as they come out of the file
    path = output / SETTINGS
    if path.exists() and not overwrite:
        _check_same(path, told)
        for left in output.rglob(".*.tmp"):  # of a run that was killed while it wrote
            left.unlink()
    elif not path.exists() and output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output}: holds files but no {SETTINGS}, so nothing that can be gone on with; choose a new "
                        "folder")
    else:
        (output / FOUND).unlink(missing_ok=True)
        write_text(path, json.dumps(told, indent=2) + "\n")
    _cut_half_line(output / FOUND)
    return LandmarkTable(output / FOUND)


def _check_same(path, told):
    try:
        before = read_json(path, dict)
        if not set(told) <= set(before):
            raise DataError(f"{path}: damaged")
    except DataError as error:
        raise DataError(f"{error}; choose a new folder, or begin anew with --overwrite") from error
    differ = [name for name in told if before[name] != told[name]]
    if differ:
        raise UserError(f"{path.parent}: was begun with {differ[0]} {before[differ[0]]}, now it is {told[differ[0]]}; "
                        "choose a new folder, or begin anew with --overwrite")


def _cut_half_line(path):
    """Leave whole lines of a landmark file that a killed run was writing, its first line at least."""
    if path.exists():
        open_plain(path).close()
        with open(path, "r+b") as file:
            start = max(0, file.seek(0, os.SEEK_END) - 2 ** 16)
            file.seek(start)
            file.truncate(start + file.read().rfind(b"\n") + 1)
    if not path.exists() or not path.stat().st_size:
        write_text(path, ",".join(COLUMNS) + "\n")


@contextmanager
def _tables(output):
    """Writers of the two lists. Landmarks are appended face by face; what was dropped is listed at the end."""
    how = dict(encoding="utf-8", errors="surrogateescape", newline="")  # whatever bytes a file name is made of
    with replacing(output / DROPPED) as path, open(path, "w", **how) as dropped, \
            open(output / FOUND, "a", buffering=1, **how) as found:
        writers = [csv.writer(file, lineterminator="\n") for file in (found, dropped)]
        writers[1].writerow(("path", "reason"))
        yield writers


def _to_do(settings, folder, output, given, known, summary, bar):
    """The jobs that are left, in order; what is done already is counted."""
    for image, namesake in walk(folder):
        numbers = None if given is None else given.find(image)
        job = _Job(image, folder / image, (output / image).with_suffix(f".{settings.format}"), numbers,
                   namesake and f"has the name of: {namesake}")
        if namesake is None and _is_done(job, known.find(image), given is not None):
            summary.skipped += 1
            bar.update()
        else:
            yield job


def _is_done(job, known, with_landmarks):
    """Whether the aligned face is there, of the photograph as it is now and of the same landmarks."""
    if known is None or with_landmarks and (job.numbers is None or np.abs(job.numbers - known).max() > 0.02):
        return False
    try:
        return abs(job.source.stat().st_mtime - job.target.stat().st_mtime) <= SAME_TIME
    except OSError:
        return False


def _process(settings, job):
    """Align one photograph. Returns a _Result; only an error that concerns every photograph is raised."""
    if job.refused:
        return _Result(job.image, None, job.refused, False)
    try:
        time = job.source.stat().st_mtime_ns
        image = decode_bgr(read_image(job.source), job.source)
        numbers, reason = _find(settings, image, job)
        face = None if reason else align(image, np.reshape(numbers[4:], (5, 2)), settings.image_size)
    except DegenerateLandmarks as error:
        face, reason = None, f"degenerate landmarks: {error}"
    except (UnreadableImage, OSError, cv2.error) as error:
        return _drop(job, f"unreadable: {' '.join(str(error).split())}")
    if reason and not settings.centre_crop:
        return _drop(job, reason)
    face = cover(image, *settings.image_size) if reason else face
    _write(settings, job.target, face, time)
    return _Result(job.image, None if reason else numbers, reason and f"centre crop, {reason}", True)


def _drop(job, reason):
    job.target.unlink(missing_ok=True)  # of an earlier state of the photograph
    return _Result(job.image, None, reason, False)


def _find(settings, image, job):
    """The face's box and landmarks, (14,) float64, and None; or None and the reason why there is no face."""
    if settings.detector is not None:
        boxes, landmarks = _detector(settings)(image)
        faces = np.hstack([boxes[:, :4], landmarks.reshape(-1, 10)])
        if not len(faces):
            return None, "no face found"
    elif job.numbers is not None:
        faces = job.numbers[None].astype(np.float64)
    else:
        return None, "no landmarks in the file"
    faces = np.round(faces, 2)  # as they are written down, so that a run with these landmarks gives the same faces
    large = faces[(faces[:, 2:4] - faces[:, :2]).max(1) >= settings.min_size]
    if not len(large):
        return None, f"face smaller than {settings.min_size} pixels"
    return large[choose_face(large, image.shape[:2])], None


def choose_face(boxes, shape):
    """The face that a photograph is of: the largest, those off its centre counted as smaller.

    boxes: (N, 4 or more): x1, y1, x2, y2 in pixels, N at least 1; shape: (height, width) of the photograph. Returns
    the index of the box with the highest area - 2 d², d being from its centre to the photograph's; the original's rule.
    """
    centres = (boxes[:, :2] + boxes[:, 2:4]) / 2
    distances = ((centres - np.array(shape[::-1]) / 2) ** 2).sum(1)
    return int(np.argmax((boxes[:, 2:4] - boxes[:, :2]).prod(1) - 2 * distances))


def _write(settings, path, face, time):
    """Write an aligned face and give it its photograph's time, by which the next run knows it."""
    encoded = cv2.imencode(f".{settings.format}", face, [cv2.IMWRITE_JPEG_QUALITY, settings.quality])[1]
    with replacing(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
        os.utime(temporary, ns=(time, time))


def _note(result, summary, found, dropped):
    if result.numbers is not None:
        found.writerow([result.image, *(f"{number:.2f}" for number in result.numbers)])
    if result.written:
        summary.aligned += 1
    if result.reason:
        kind, _, detail = result.reason.partition(": ")
        summary.dropped[kind] += 1
        dropped.writerow([result.image, result.reason])
        if kind == "unreadable" and len(summary.unreadable) < SHOWN:
            summary.unreadable.append(detail)


def _mapped(function, jobs, workers):
    """Results of the jobs in order, by `workers` processes; few jobs are taken ahead, however many there are."""
    if workers == 1:
        yield from map(function, jobs)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    pending = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(function, job))
            if len(pending) >= 8 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise UserError("a process was ended from outside, perhaps for want of memory; run the command again to go on, "
                        "with fewer --workers") from error
    finally:
        for task in pending:
            task.cancel()
        pool.shutdown()


def _start_worker():
    """Make a new process one of many: a single thread, and an end when the parent ends."""
    os.environ["OMP_NUM_THREADS"] = "1"
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
