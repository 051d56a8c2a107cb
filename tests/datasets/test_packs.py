"""Verification packs: as Python 2 and 3 wrote them, damaged ones, hostile ones."""
import io
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encode, picture

from common.errors import DataError
from common.mxnet_setup import mx
from datasets.packs import load_pack, write_pack

SAME = [True, False, True]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lfw.bin"


@pytest.fixture(scope="module")
def images(jpegs):
    return jpegs[:6]


def assert_holds(path, images, same=SAME):
    pack = load_pack(path)
    assert pack.name == "lfw" and pack.images == images
    assert pack.issame.dtype == bool and pack.issame.tolist() == same


def test_round_trip(path, images):
    write_pack(path, images, np.array(SAME))
    assert_holds(path, images)
    bins, issame = pickle.loads(path.read_bytes())
    assert bins == images and all(type(same) is bool for same in issame) and issame == SAME


def test_repeated_images_are_stored_once(path, images):
    write_pack(path, images[:1] * 6, SAME)
    assert_holds(path, images[:1] * 6)
    assert path.stat().st_size < 2 * len(images[0])


def test_decode(path, images):
    """Against MXNet's own decoder, which the original uses."""
    write_pack(path, images, SAME)
    planes = load_pack(path).decode(1, 5)
    expected = np.stack([mx.image.imdecode(image).asnumpy().transpose(2, 0, 1) for image in images[1:5]])
    assert planes.dtype == np.uint8 and planes.shape == (4, 3, 112, 112)
    np.testing.assert_allclose(planes.astype(int), expected, atol=2)


def test_golden_image(path, golden):
    stored = np.load(golden / "verification_test_tiny.npz")
    pictures = [stored[name].astype(np.uint8) for name in ("first_image", "first_image_flip")]
    write_pack(path, [encode(planes.transpose(1, 2, 0), ".png") for planes in pictures], [True])
    planes = load_pack(path).decode(0, 2)
    np.testing.assert_array_equal(planes, np.stack(pictures))
    np.testing.assert_array_equal(planes[0, :, :, ::-1], planes[1])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_any_protocol_and_numpy(path, images, protocol, core):
    arrays = [np.frombuffer(image, np.uint8) for image in images]
    columns = [array.reshape(-1, 1) for array in arrays]  # as older OpenCV encodes
    for bins in (images, arrays, columns, np.array(images, object), [bytearray(image) for image in images]):
        for issame in (SAME, tuple(SAME), np.array(SAME), [np.bool_(same) for same in SAME], [1, 0, 1]):
            pickled = pickle.dumps((bins, issame), protocol)
            if protocol < 4:  # from protocol 4 on, names carry their length
                pickled = pickled.replace(b"numpy.core.", core.encode() + b".")
            path.write_bytes(pickled)
            assert_holds(path, images)


def py2_string(data):
    """A str of Python 2, as its protocols 1 and 2 write it."""
    if len(data) < 256:
        return pickle.SHORT_BINSTRING + bytes([len(data)]) + data
    return pickle.BINSTRING + struct.pack("<i", len(data)) + data


def py2_pack(images, labels):
    """Protocol 2 of Python 2: two lists in a tuple."""
    lists = [pickle.EMPTY_LIST + pickle.MARK + b"".join(items) + pickle.APPENDS for items in (images, labels)]
    return pickle.PROTO + b"\x02" + b"".join(lists) + pickle.TUPLE2 + pickle.STOP


def py2_array(data):
    """A uint8 array as Python 2 pickles it, its strings being str."""
    dtype = (b"cnumpy\ndtype\n" + py2_string(b"u1") + b"K\x00K\x01\x87R(K\x03" + py2_string(b"|")
             + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + py2_string(b"b") + b"\x87R"
    return made + b"(K\x01" + b"J" + struct.pack("<i", len(data)) + b"\x85" + dtype + b"\x89" + py2_string(data) + b"tb"


LABELS2 = [pickle.NEWTRUE, pickle.NEWFALSE, pickle.NEWTRUE]


def test_python_2_strings(path, images):
    path.write_bytes(py2_pack([py2_string(image) for image in images], LABELS2))
    with pytest.raises(UnicodeDecodeError):  # indeed a pickle that Python 3 cannot read as it is
        pickle.loads(path.read_bytes())
    assert_holds(path, images)


def test_python_2_arrays(path, images):
    path.write_bytes(py2_pack([py2_array(image) for image in images], LABELS2))
    theirs = pickle.loads(path.read_bytes(), encoding="bytes")[0]
    assert [array.tobytes() for array in theirs] == images
    assert_holds(path, images)


def test_python_2_protocol_0(path, images):
    text = b"((lp0\n" + b"".join(b"S" + repr(image)[1:].encode() + b"\na" for image in images) + b"(lp1\n" + b"".join(
        b"I0%d\na" % same for same in SAME) + b"tp2\n."
    path.write_bytes(text)
    assert_holds(path, images)


@pytest.mark.parametrize("images, same, message", [
    ([b"x"] * 24, [True] * 11, r"lfw\.bin: 11 labels for 24 images: expected 12"),
    ([b"x"] * 3, [True], "3 images; expected two for each pair"),
    ([], [], "0 images"),
    ([b"x", "text"], [True], "image 1: found a str"),
    ([b"x", [b"x"]], [True], "image 1: found a list"),
    ([b"x", np.bool_(True)], [True], "cannot be decoded|found a"),
    ([b"x", b"x"], ["yes"], "found the label 'yes'; expected True or False"),
    ([b"x", b"x"], [2], "found the label 2"),
    ([b"x", b"x"], [None], "found the label None"),
    ([b"x", b"x"], np.array([0.5]), "labels that cannot be read"),
    ([b"x", b"x"], 5, "labels that cannot be read"),
    (7, [True], "not a verification pack"),
    (np.array([b"x", b"y"]), [True], "not a verification pack"),
])
def test_content_that_does_not_fit(path, images, same, message):
    path.write_bytes(pickle.dumps((images, same)))
    with pytest.raises(DataError, match=message):
        load_pack(path).decode(0, len(images))


@pytest.mark.parametrize("data, message", [
    (b"", "empty"),
    (b"GIF89a", "not a verification pack"),
    (pickle.dumps([1, 2, 3]), "not a verification pack"),
    (pickle.dumps({}), "not a verification pack"),
    (b"r\xff\xff\xff\xff.", "not a verification pack"),
    (b"\x80\x04" + pickle.BINBYTES8 + b"\xff" * 7 + b"\x0f.", "not a verification pack|cut short"),
])
def test_not_a_pack(path, data, message):
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"lfw.bin: .*({message})"):
        load_pack(path)


def test_missing(path):
    with pytest.raises(DataError, match="lfw.bin: cannot be read: No such file"):
        load_pack(path)


@pytest.mark.parametrize("protocol", [0, 2, 4, pickle.HIGHEST_PROTOCOL])
def test_every_truncation_is_found(path, protocol):
    whole = pickle.dumps(([np.frombuffer(b"abc", np.uint8), b"defg"], [True]), protocol)
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="lfw.bin"):
            load_pack(path)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(data=st.binary(max_size=60), place=st.integers(0, 400), protocol=st.sampled_from([0, 2, 4]))
def test_random_bytes_give_a_data_error(tmp_path_factory, data, place, protocol):
    path = tmp_path_factory.getbasetemp() / "random.bin"
    pickled = pickle.dumps(([np.frombuffer(b"abc", np.uint8), b"defg"], np.array([True])), protocol)
    path.write_bytes(data)
    with pytest.raises(DataError, match="random.bin"):
        load_pack(path)
    path.write_bytes(pickled[:place] + data + pickled[place + len(data):])
    try:
        assert len(load_pack(path).images) == 2
    except DataError as error:
        assert "random.bin" in str(error)


class Hostile:
    """Unpickled by the standard unpickler, it calls a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_pack_runs_nothing(path, tmp_path, protocol):
    target = tmp_path / "made"
    hostile = [Hostile(io.open, str(target), "w"), Hostile(exec, f"open({str(target)!r}, 'w')"),
               Hostile(np.frombuffer, b"x"), Hostile(getattr, "x", "upper")]
    for call in hostile:
        path.write_bytes(pickle.dumps(([b"x", call], [True]), protocol))
        with pytest.raises(DataError, match="asks for .*nothing of it was run"):
            load_pack(path)
        assert not target.exists()


@pytest.mark.parametrize("name", ["numpy\ndtype", "numpy\nndarray", "numpy.core.multiarray\n_reconstruct",
                                  "numpy.core.multiarray\nscalar", "_codecs\nencode", "builtins\nbytes"])
def test_a_pack_cannot_change_the_reader(path, images, name):
    """BUILD sets attributes on what lies on the stack: here on the reader's own classes."""
    path.write_bytes(b"c" + name.encode() + b"\nN}U\x0c__setstate__Ns\x86b.")
    with pytest.raises(DataError):
        load_pack(path)
    write_pack(path, [np.frombuffer(image, np.uint8).tobytes() for image in images], SAME)
    assert_holds(path, images)


def test_images_are_checked_when_decoded(path, images):
    write_pack(path, images[:2] + [images[2][:-50], encode(picture(1, (112, 96)))], [True, False])
    pack = load_pack(path)
    assert pack.decode(0, 2).shape == (2, 3, 112, 112)
    with pytest.raises(DataError, match="lfw.bin image 2: .*cannot be decoded"):
        pack.decode(2, 4)
    with pytest.raises(DataError, match="lfw.bin image 3: the image is 112x96; expected 112x112"):
        pack.decode(3, 4)
    assert load_pack(path, (112, 96)).decode(3, 4).shape == (1, 3, 112, 96)


def test_write_pack_refuses_wrong_lengths(path):
    with pytest.raises(ValueError, match="2 labels for 3 images"):
        write_pack(path, [b"x"] * 3, [True, False])
    assert not path.exists()
