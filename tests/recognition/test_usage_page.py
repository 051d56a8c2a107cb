"""docs/usage.md: every command and every line of Python on the page runs, in its order, on rendered faces."""
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import use_files as files

from common import checkpoint
from common.mxnet_setup import mx
from datasets.packs import write_pack
from datasets.rendered import render_identity
from datasets.training_set import write_training_set
from symbols import get_symbol

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
BLOCKS = [re.sub("^    ", "", block, flags=re.M) for block in re.findall(r"(?:^    .+\n(?:\n(?=    ))?)+", PAGE, re.M)]
PEOPLE, PICTURES = 10, 5


def write_small_model(prefix):
    """A network of the y1 family with drawn parameters, for 112x112 pixels."""
    random, symbol = np.random.RandomState(0), get_symbol("y1", emb_size=16, net_blocks=(1, 1, 1, 1), net_output="E")
    shapes, _, states = symbol.infer_shape(data=(1, 3, 112, 112))
    arguments = {name: random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape) if name.endswith("weight")
                 else np.full(shape, float(name.endswith("gamma")))
                 for name, shape in zip(symbol.list_arguments(), shapes) if name != "data"}
    states = {name: np.full(shape, float(name.endswith("var")))
              for name, shape in zip(symbol.list_auxiliary_states(), states)}
    checkpoint.save(prefix, 1, symbol, *({name: mx.nd.array(value) for name, value in part.items()}
                                         for part in (arguments, states)))


@pytest.fixture(scope="module")
def drawn():
    """Rendered faces: PICTURES of each of PEOPLE."""
    return [render_identity(0, "probes", number, PICTURES)[0] for number in range(PEOPLE)]


@pytest.fixture
def here(tmp_path, monkeypatch, drawn):
    """A folder with all that the page names."""
    monkeypatch.chdir(tmp_path)
    write_small_model(tmp_path / "models" / "y1" / "model")
    files.write_detector(tmp_path / "mtcnn")
    for name, (number, picture) in {
            "a.jpg": (0, 0), "b.jpg": (0, 1), "c.jpg": (1, 0), "people/Ada Lovelace/1.jpg": (0, 2),
            "people/Ada Lovelace/2.jpg": (0, 3), "people/Grace Hopper/1.jpg": (1, 1), "people/Alan.jpg": (2, 0),
            "more/Edsger.jpg": (3, 0)}.items():
        files.write_image(tmp_path / name, drawn[number][picture])
    for number in (1, 2):
        bright = np.maximum(drawn[number][0], 100)
        files.write_image(tmp_path / "photographs" / f"{number}.jpg", files.photograph_of(bright, 3, 168))
    encoded = [[files.encode(image) for image in images] for images in drawn]
    write_training_set(tmp_path / "datasets" / "mine", encoded[:3])
    flat = [(person, data) for person, images in enumerate(encoded) for data in images]
    pairs = [(one, other) for number, one in enumerate(flat) for other in flat[:number]]
    write_pack(tmp_path / "packs" / "lfw.bin", [data for pair in pairs for _, data in pair],
               [one[0] == other[0] for one, other in pairs])
    return tmp_path


def run_command(words, monkeypatch):
    """Run a command in this process. A server does not serve: it would never end; its port is any that is free."""
    if words[0].endswith("serve.py"):
        words = [*words, "--port", "0"]
        monkeypatch.setattr("recognition.web_server.FaceServer.serve_forever", lambda server: None)
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
        patched.setattr(sys, "argv", words)
        patched.setattr(sys, "path", sys.path[:])
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    monkeypatch.undo()
    return ended.value.code


def test_everything_on_the_page(here, monkeypatch, capsys):
    names, commands, calls = {}, [], 0
    for block in BLOCKS:
        if block.startswith("python "):
            for line in block.replace("\\\n", " ").splitlines():
                commands.append(shlex.split(line)[1:])
                monkeypatch.chdir(here)
                code = run_command(commands[-1], monkeypatch)
                assert not code, (line, capsys.readouterr().err)
        else:
            monkeypatch.chdir(here)
            exec(compile(block, "docs/usage.md", "exec"), names)
            calls += 1
    assert calls == 3 and {Path(words[0]).name for words in commands} == {
        "embed.py", "compare.py", "search.py", "serve.py", "verification.py"}
    told = capsys.readouterr().out
    assert "threshold 0." in told and "(FAR 0.001 on lfw)" in told and "of strangers, about 0." in told
    assert "people.npz: 3 identities with 4 pictures; added 4, there already 0, left out 0" in told
    assert "people.npz: 4 identities with 5 pictures; added 1, there already 0, left out 0" in told
    assert np.load("mine.npy").shape == (15, 16) and np.load("faces.npy").shape == (5, 16)
    assert names["gallery"].identities() == {"Ada Lovelace": 2, "Edsger": 1, "Grace Hopper": 1}


def test_flags_on_the_page_are_the_commands(capsys, monkeypatch):
    """Every flag that the page names is one of a command's."""
    known = ""
    for name in ("embed.py", "compare.py", "search.py", "search.py enrol", "search.py query", "serve.py"):
        script, *part = name.split()
        monkeypatch.setattr(sys, "argv", [script, *part, "--help"])
        with pytest.raises(SystemExit):
            runpy.run_path(str(ROOT / "recognition" / script), run_name="__main__")
        known += capsys.readouterr().out
    text = re.sub(r"^    .*$", "", PAGE, flags=re.M)
    assert set(re.findall(r"--[a-z][a-z-]+", text)) <= set(re.findall(r"--[a-z][a-z-]+", known))
