"""Training sets to and from WebDataset shards; shards of others, damaged and hostile ones."""
import io
import itertools
import random
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encode, picture

from common.errors import DataError, UserError
from datasets.tar_shards import read_shards, write_shards
from datasets.training_set import TrainingSet, write_training_set

ROOT = Path(__file__).resolve().parents[2]
IMAGE = encode(picture(0, (8, 8)))
SIZE = (8, 8)


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """A new path at each call."""
    folder, count = tmp_path_factory.mktemp("shards"), itertools.count()
    return lambda: folder / str(next(count))


@pytest.fixture(scope="module")
def pool():
    """Different small images."""
    return [encode(picture(seed, SIZE)) for seed in range(30)]


def samples(folder):
    """What the webdataset package gives: (key, {extension: bytes}) of neighbours that share a name up to its dot."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                directory, key, extension = re.fullmatch(r"((?:.*/)?)([^.]+)[.]([^/]*)", member.name).groups()
                if not found or found[-1][0] != directory + key:
                    found.append((directory + key, {}))
                assert extension not in found[-1][1]
                found[-1][1][extension] = tar.extractfile(member).read()
    return found


def read(folder):
    training_set = TrainingSet(folder)
    images = [training_set.read(i) for i in range(len(training_set))]
    training_set.close()
    return images


def write_tar(members, folder, name="a.tar", mode="w"):
    """A shard of (name or TarInfo, content)."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / name, mode) as tar:
        for member, content in members:
            member = tarfile.TarInfo(member) if isinstance(member, str) else member
            if member.isreg():
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return folder


def sample(key, label, image=IMAGE):
    return [(f"{key}.jpg", image), (f"{key}.cls", b"%d" % label)]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_round_trip(new, pool, data):
    counts = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    stream = iter(pool)
    identities = [list(itertools.islice(stream, count)) for count in counts]
    source, shards, again = new(), new(), new()
    write_training_set(source, identities, SIZE)
    per_shard, shuffle = data.draw(st.integers(1, 40)), data.draw(st.booleans())
    count = write_shards(source, shards, "face", per_shard, shuffle, seed=1, progress=False)
    assert count == -(-sum(counts) // per_shard)
    assert [path.name for path in sorted(shards.iterdir())] == [f"face-{i:06d}.tar" for i in range(count)]
    found = [(fields["jpg"], int(fields["cls"])) for _, fields in samples(shards)]
    assert found == read(source) or shuffle and sorted(found) == sorted(read(source))
    made = read_shards(shards, again, SIZE, progress=False)
    assert made == (len(counts), sum(counts))
    if shuffle:
        assert sorted(read(again)) == sorted(read(source)) and TrainingSet(again).num_classes == len(counts)
    else:
        for name in ("train.rec", "train.idx", "property"):
            assert (again / name).read_bytes() == (source / name).read_bytes()


def test_shuffled_by_the_seed(training_folder, new):
    keys = []
    for seed in (1, 1, 2):
        shards = new()
        write_shards(training_folder, shards, shuffle=True, seed=seed, progress=False)
        keys.append([key for key, _ in samples(shards)])
    assert keys[0] == keys[1] != keys[2] and sorted(keys[0]) == [f"{i:09d}" for i in range(1, 15)]


def test_commands(training_folder, new):
    shards, again = new(), new()

    def command(*args):
        return subprocess.run([sys.executable, str(ROOT / "datasets" / "webdataset.py"), *map(str, args)],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)

    made = command("to", "--input", training_folder, "--output", shards, "--images-per-shard", 5)
    assert (made.returncode, made.stdout) == (0, f"{shards}: 3 shards\n"), made.stderr
    made = command("from", "--input", shards, "--output", again)
    assert (made.returncode, made.stdout) == (0, f"{again}: 3 identities, 14 images\n"), made.stderr
    assert "image/s" in made.stderr and read(again) == read(training_folder)
    refused = command("from", "--input", again, "--output", new())
    assert refused.returncode == 2 and refused.stderr == f"error: {again}: no shards; expected *.tar, not compressed\n"


@pytest.mark.parametrize("flags", [dict(images_per_shard=0), dict(seed=-1), dict(name="../x")])
def test_bad_settings(training_folder, new, flags):
    with pytest.raises(UserError, match="expected at least 1, 0 to 4294967295, and a name without folders"):
        write_shards(training_folder, new(), progress=False, **flags)


def test_shards_of_others(new, pool):
    """Classes with gaps and in any order, folders, other fields, PNG, long names, every tar format."""
    png, output = encode(picture(3, SIZE), ".png"), new()
    for number, form in enumerate((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        folder, output = new(), new()
        folder.mkdir()
        long = "x" * 90 + "/" + "y" * (150 if number else 90)
        with tarfile.open(folder / "a.tar", "w", format=form) as tar:
            directory = tarfile.TarInfo("train")
            directory.type = tarfile.DIRTYPE
            tar.addfile(directory)
            for name, content in [("train/one.two.jpg", b"not used"), ("train/one.jpg", pool[0]),
                                  ("train/one.cls", b"5\n"), ("train/one.json", b"{}"), ("readme", b"text"),
                                  (f"{long}.cls", b"2"), (f"{long}.png", png), *sample("é", 5, pool[1])]:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        write_tar(sample("train/one", 0, pool[2]), folder, "b.tar")  # a key of its own in each shard
        read_shards(folder, output, SIZE, progress=False)
        assert read(output) == [(pool[2], 0), (png, 1), (pool[0], 2), (pool[1], 2)]
        assert (output / "identities.csv").read_text() == (
            "original,images,identity\n0,1,0\n1,0,-1\n2,1,1\n3,0,-1\n4,0,-1\n5,2,2\n")


@pytest.mark.parametrize("members, message", [
    ([("a.jpg", IMAGE)], "a.tar sample 'a': 1 images and 0 classes"),
    ([("a.cls", b"1")], "sample 'a': 0 images and 1 classes"),
    ([("a.jpg", IMAGE), ("b.jpg", IMAGE), ("a.cls", b"1"), ("b.cls", b"1")], "sample 'a': 1 images and 0 classes"),
    ([*sample("a", 1), ("a.png", IMAGE)], "sample 'a': 2 images and 1 classes"),
    ([*sample("a", 1), *sample("a", 1)], "sample 'a': 2 images and 2 classes"),
    ([("a.jpg", IMAGE), ("a.cls", b"one")], "sample 'a': class b'one'; expected digits"),
    ([("a.jpg", IMAGE), ("a.cls", b"-1")], "class b'-1'"),
    ([("a.jpg", IMAGE), ("a.cls", b"")], "class b''"),
    ([("a.jpg", IMAGE), ("a.cls", b"16777216")], "a number below 16777216"),
    ([("a.jpg", IMAGE), ("a.cls", b"1" * 10 ** 6)], "class b'1"),
    ([("a.jpg", b""), ("a.cls", b"1")], "a.tar image at byte 512: the image .0 bytes. cannot be decoded"),
    (sample("a", 1, encode(picture(1))), "the image is 112x112; expected 8x8"),
    ([], "no samples in 1 shards"),
    ([("readme.txt", b"x")], "sample 'readme': 0 images"),
    (sample("/a", 1), "member '/a.jpg': a name that leads out of its folder"),
    (sample("x/../../a", 1), r"member 'x/../../a.jpg': a name that leads out"),
])
def test_samples_that_cannot_be_used(new, members, message):
    folder, output = write_tar(members, new()), new()
    with pytest.raises(DataError, match=message):
        read_shards(folder, output, SIZE, progress=False)
    assert not output.exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(new, kind):
    member = tarfile.TarInfo("a.jpg")
    member.type, member.linkname = kind, "/etc/passwd"
    folder = write_tar([(member, b""), ("a.cls", b"1")], new())
    with pytest.raises(DataError, match="a.tar member 'a.jpg': a link, a device or a sparse file"):
        read_shards(folder, new(), SIZE, progress=False)


def header(name="a.jpg", kind=tarfile.REGTYPE, size=0, **pax):
    """The bytes of a header, whatever it announces."""
    member = tarfile.TarInfo(name)
    member.type, member.size, member.pax_headers = kind, size, pax
    return member.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)


@pytest.mark.parametrize("content, message", [
    (header(size=1 << 40), "member 'a.jpg': 1099511627776 bytes; expected at most"),
    (header(size=-512), "member 'a.jpg': -512 bytes"),
    (header(size=1 << 20), "damaged|cut short"),
    (header(kind=tarfile.GNUTYPE_LONGNAME, size=1 << 40), "a header of"),
    (header(kind=tarfile.XHDTYPE, size=1 << 40), "a header of"),
    (header(kind=tarfile.XHDTYPE, size=-1024), "a header of|damaged"),
    (header(kind=tarfile.GNUTYPE_SPARSE), "sparse file|damaged"),
    (header(**{"GNU.sparse.size": "99999999999999", "GNU.sparse.map": "0,1"}), "sparse file|damaged"),
    (header(size=5, **{"GNU.sparse.realsize": "9", "GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
     "sparse|damaged"),
    (header(kind=tarfile.GNUTYPE_LONGNAME) * 3000, "damaged"),
    (b"GIF89a", "not a tar file, or damaged"),
    (b"", "not a tar file, or damaged"),
], ids=range(12))
def test_headers_that_lie(new, content, message):
    """They end at once, whatever they announce: no memory is set aside, nothing is read twice."""
    folder = new()
    folder.mkdir()
    (folder / "a.tar").write_bytes(content + bytes(1024) * bool(content))
    with pytest.raises(DataError, match=f"a.tar.*({message})"):
        read_shards(folder, new(), SIZE, progress=False)


def test_size_in_an_extended_header_that_leads_back(new):
    """A negative size would have the reader go over the same members for ever."""
    folder = new()
    folder.mkdir()
    records = b"14 size=-2048\n"
    extended = header("x", tarfile.XHDTYPE, len(records)) + records.ljust(512, b"\0")
    (folder / "a.tar").write_bytes(extended + header() + bytes(1024))
    with pytest.raises(DataError, match="-2048 bytes|damaged"):
        read_shards(folder, new(), SIZE, progress=False)


def test_a_folder_is_no_shard(new):
    folder = new()
    (folder / "a.tar").mkdir(parents=True)
    with pytest.raises(DataError, match="a.tar: cannot be read: Is a directory"):
        read_shards(folder, new(), SIZE, progress=False)


def test_compressed_shards_are_refused(new):
    folder = write_tar(sample("a", 1), new(), mode="w:gz")
    with pytest.raises(DataError, match="a.tar: not a tar file"):
        read_shards(folder, new(), SIZE, progress=False)


def test_every_cut_and_damage_is_found_or_harmless(new):
    folder = write_tar([entry for i in range(3) for entry in sample(i, i)], new())
    path, rng = folder / "a.tar", random.Random(0)
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0"))
    for cut in [*range(0, end + 1, 512), *(rng.randrange(end) for _ in range(10))]:
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="a.tar"):
            read_shards(folder, new(), SIZE, progress=False)
    for _ in range(50):
        data = bytearray(whole)
        data[rng.randrange(end)] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            assert read_shards(folder, new(), SIZE, progress=False).images == 3
        except DataError as error:
            assert "a.tar" in str(error)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.binary(max_size=200), places=st.lists(st.integers(0, 511), max_size=3))
def test_random_headers(new, data, places):
    """Of a header with a valid check sum."""
    folder = new()
    folder.mkdir()
    block = bytearray(header("a.jpg", size=len(IMAGE)))
    for place in places:
        block[place:place + 8] = data[:8].ljust(8, b"\0")
        data = data[8:]
    block = block[:512]
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (folder / "a.tar").write_bytes(bytes(block) + IMAGE.ljust(-(-len(IMAGE) // 512) * 512, b"\0") + bytes(1024))
    with pytest.raises(DataError, match="a.tar|no samples"):
        read_shards(folder, new(), SIZE, progress=False)


def test_many_members_are_not_kept(new, monkeypatch):
    folder = write_tar([entry for i in range(50) for entry in sample(i, 0)], new())
    kept = []
    original = tarfile.TarFile.next

    def watched(self):
        kept.append(len(self.members))
        return original(self)

    monkeypatch.setattr(tarfile.TarFile, "next", watched)
    read_shards(folder, new(), SIZE, progress=False)
    assert len(kept) > 100 and max(kept) <= 1
