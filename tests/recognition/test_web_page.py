"""The local page in a real browser: pictures chosen, dropped and pasted; what is shown; keyboard, phone, dark rooms."""
import base64

import cv2
import numpy as np
import pytest
import use_files as files
from browser import Browser, find_programs

from recognition.gallery import Gallery
from recognition.recogniser import Recogniser
from recognition.web_server import FaceServer, Limits

TAB, SPACE, ENTER = "\ue004", "\ue00d", "\ue007"
NAMES = ("a.png", "<img src=x onerror=alert(1)>.png", "c.png", "d.png")
_DONE = "return !/Looking/.test(document.querySelector('#status').textContent) && " \
        "document.querySelectorAll('#faces > li').length === arguments[0]"


_FILES = """const files = new DataTransfer();
    for (const data of arguments[0]) {
      const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
      files.items.add(new File([bytes], "handed.png", {type: "image/png"}));
    }"""
# Elements whose text stands out from what is behind it by less than 4.5, as WCAG 2 reckons contrast.
_FAINT = """
    const shade = (color) => color.match(/[\\d.]+/g).map(Number);
    const linear = (value) => value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
    const behind = (one) => {
      for (; one; one = one.parentElement) {
        const color = shade(getComputedStyle(one).backgroundColor);
        if (color.length < 4 || color[3] > 0) return light(color);
      }
      return 1;
    };
    const hasText = (one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    return [...document.querySelectorAll("body *")].filter((one) => one.checkVisibility() && hasText(one))
      .map((one) => [light(shade(getComputedStyle(one).color)), behind(one), one.innerText])
      .map(([a, b, text]) => [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), text])
      .filter(([contrast]) => contrast < 4.5);"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    find_programs()
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Paths of four pictures, of which the second's name is HTML, one that is none, and one that is empty."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, image in zip(NAMES, files.draw_images(4)):
        files.write_image(folder / name, image)
    (folder / "none.png").write_bytes(b"none")
    (folder / "empty.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def threshold():
    """Between the similarities of the first three pictures, so that there are both decisions."""
    rows = files.reference(files.draw_images(4))
    return float(np.mean(np.sort((rows[:3] @ rows[:3].T)[np.triu_indices(3, 1)])[1:]))


@pytest.fixture(scope="module")
def faces(tmp_path_factory, threshold):
    return Recogniser(files.write_model(tmp_path_factory.mktemp("model")), threshold=threshold, image_shape=files.SIZE,
                      batch_size=1)


@pytest.fixture(scope="module")
def gallery(faces):
    gallery = Gallery(faces.model_hash)
    for name, row in zip(("Ada", "<b>Grace</b>"), faces.embed(files.draw_images(2))):
        gallery.add(name, "", row)
    return gallery


@pytest.fixture
def page(browser, faces, gallery):
    """The browser at the page, which was not complained of at the end."""
    with FaceServer(faces, gallery, port=0, limits=Limits(pictures=4, bytes=100_000)).start() as server:
        browser.emulate(1100, 900)
        browser.open(server.url)
        browser.server = server
        yield browser
        assert browser.complaints() == []
        server.shutdown()


def choose(page, pictures, *names, cards=None):
    page.type("#choose", "\n".join(str(pictures / name) for name in names))
    page.wait(_DONE, len(names) if cards is None else cards)


def shown(page, selector):
    return page.run("return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)", selector)


def test_two_pictures(page, pictures, threshold):
    rows = files.reference(files.draw_images(4))
    choose(page, pictures, NAMES[0])
    assert page.text("#status") == "" and not shown(page, "#verdict:not([hidden])")  # a gallery has an answer for one
    choose(page, pictures, NAMES[1], cards=2)
    similarity = rows[0] @ rows[1]
    verdict = "Same person" if similarity >= threshold else "Different people"
    found, told = page.text("#verdict").split("\n")
    assert found == verdict and float(told.partition("similarity ")[2]) == pytest.approx(similarity, abs=6e-4)
    assert shown(page, "#faces > li p:first-child") == [f"Face A {NAMES[0]}", f"Face B {NAMES[1]}"]
    assert not shown(page, "#matrix:not([hidden])")
    images = page.run("return [...document.querySelectorAll('#faces img')].map((one) => one.naturalWidth)")
    assert images == [32, 32]


def test_matrix_of_more(page, pictures, threshold):
    rows = files.reference(files.draw_images(4)[:3])
    choose(page, pictures, *NAMES[:3])
    assert shown(page, "#matrix th") == ["A", "B", "C"] * 2
    cells = [cell.split("\n") for cell in shown(page, "#matrix td")[1:]]
    assert [cell for cell in cells if len(cell) == 1] == [["–"]] * 3 and cells[0] == cells[4] == cells[8] == ["–"]
    numbers = [1 if cell == ["–"] else float(cell[0]) for cell in cells]
    np.testing.assert_allclose(numbers, (rows @ rows.T).reshape(-1), atol=6e-4)
    words = {cell[1] for cell in cells if len(cell) == 2}
    assert words == {"same", "different"}
    assert all((cell[1] == "same") == (float(cell[0]) >= threshold) for cell in cells if len(cell) == 2)


def test_names_of_the_gallery(page, pictures, threshold):
    choose(page, pictures, NAMES[0], NAMES[1], NAMES[3])
    rows = files.reference(files.draw_images(4))
    for number, (own, text) in enumerate(zip((0, 1, 3), shown(page, "#faces strong")), 1):
        near = rows[own] @ rows[:2].T
        name = ("Ada", "<b>Grace</b>")[near.argmax()]
        assert text == (name if near.max() >= threshold else "Unknown")
        first = shown(page, f"#faces > li:nth-child({number}) ol li")[0].split("\n")
        assert first[0] == name and float(first[1]) == pytest.approx(near.max(), abs=6e-4)


def test_pictures_that_cannot_be_used(page, pictures):
    choose(page, pictures, "none.png", NAMES[0], "empty.png", cards=2)
    assert page.text("#status") == "Empty files were left out."
    assert "begins with b'none'" in shown(page, "#faces > li")[0] and "Face A" in shown(page, "#faces > li")[1]
    choose(page, pictures, *NAMES[1:], cards=4)
    assert page.text("#status") == "Only the first 4 pictures are taken."


def test_removing(page, pictures):
    choose(page, pictures, *NAMES[:3])
    page.run("document.querySelectorAll('#faces button')[1].click()")
    page.wait(_DONE, 2)
    assert shown(page, "#faces > li p:first-child") == [f"Face A {NAMES[0]}", f"Face B {NAMES[2]}"]
    assert page.run("return document.activeElement.id") == "choose"
    page.run("document.querySelector('#clear').click()")
    assert page.run("return document.querySelectorAll('#faces li, #verdict:not([hidden]), #matrix:not([hidden]), "
                    "#clear:not([hidden])').length") == 0


def test_too_many_bytes_are_not_sent(page, pictures, tmp_path):
    noise = np.random.RandomState(0).randint(0, 256, (200, 200, 3)).astype(np.uint8)
    files.write_image(tmp_path / "noise.png", noise)
    page.type("#choose", str(tmp_path / "noise.png"))
    told = page.wait("return document.querySelector('#status.problem')?.innerText")
    assert told == "These pictures have 0.1 MB; at most 0.1 are taken. Remove some."


def test_dropped_and_pasted(page, pictures):
    """As the browser hands files over; the events are made by a script, since a driver has no desktop."""
    data = [base64.b64encode((pictures / name).read_bytes()).decode() for name in NAMES[:2]]
    page.run(_FILES + """
        const send = (name) => {
          const event = new DragEvent(name, {dataTransfer: files, bubbles: true, cancelable: true});
          document.body.dispatchEvent(event);
          return [event.defaultPrevented, document.querySelector("#drop").className];
        };
        window.told = [send("dragover"), send("drop")];""", data)
    page.wait(_DONE, 2)
    assert page.run("return told") == [[True, "drop over"], [True, "drop"]]
    page.run(_FILES + 'document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: files}));', data[:1])
    page.wait(_DONE, 3)
    assert shown(page, "#faces > li p:first-child")[2] == "Face C handed.png"


def test_the_last_choice_counts(page, pictures, faces, monkeypatch):
    """An answer that comes after another choice is not shown."""
    real, calls = faces.embed_crops, []

    def slow(crops, raw=False):
        calls.append(len(crops))
        if len(calls) == 1:
            page.type("#choose", str(pictures / NAMES[2]))  # while the first ones are looked at
        return real(crops, raw)

    monkeypatch.setattr(faces, "embed_crops", slow)
    page.type("#choose", "\n".join(str(pictures / name) for name in NAMES[:2]))
    page.wait(_DONE + " && document.querySelectorAll('#matrix td').length > 9", 3)
    assert calls == [2, 3]
    page.complaints()


def test_keyboard(page, pictures):
    """Everything can be reached by the tabulator, the place is shown, and space or enter presses buttons."""
    choose(page, pictures, *NAMES[:3])
    page.run("document.activeElement.blur(); window.getSelection().removeAllRanges()")
    stops = []
    for _ in range(6):
        page.press(TAB)
        stops.append(page.run("""
            const one = document.activeElement, box = one.id === "choose" ? one.parentElement : one;
            return [one.id || one.className || one.innerText, getComputedStyle(box).outlineStyle];"""))
    assert stops == [["choose", "solid"], ["clear", "solid"]] + [["Remove", "solid"]] * 3 + [["wide", "solid"]]
    page.run("document.querySelectorAll('#faces button')[2].focus()")
    page.press(ENTER)
    page.wait(_DONE, 2)
    page.run("document.querySelectorAll('#faces button')[1].focus()")
    page.press(SPACE)
    page.wait(_DONE, 1)


@pytest.mark.parametrize("width", [1100, 390, 320])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_juts_out_and_all_can_be_read(page, pictures, width, dark, tmp_path):
    """No scrolling sideways; text against what is behind it as WCAG 2 asks for (contrast of 4.5 at least)."""
    page.emulate(width, 800, dark)
    choose(page, pictures, "none.png", *NAMES[:3])
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run(_FAINT) == []
    page.screenshot(tmp_path / "page.png")
    image = cv2.imread(str(tmp_path / "page.png"))
    assert image.shape[1] <= width and (np.median(image) < 60) == dark


def test_a_server_that_is_gone(page, pictures):
    page.server.stop()
    page.type("#choose", str(pictures / NAMES[0]))
    told = page.wait("return document.querySelector('#status.problem')?.innerText")
    assert told in ("The program does not answer. Is it still running?",
                    "Refused: the program is ending.")  # over a connection that was open already
    page.complaints()


def test_foreign_pages_cannot_use_it(page, faces, monkeypatch):
    """A page of another origin in the same browser gets no answer, and nothing is done for it."""
    monkeypatch.setattr(faces, "embed_crops", lambda crops: pytest.fail("embedded"))
    page.open("about:blank")
    for headers in ({"Content-Type": "application/octet-stream", "Picture-Sizes": "4"}, {"Content-Type": "text/plain"}):
        assert page.run("""
            return fetch(arguments[0] + "compare", {method: "POST", body: "abcd", headers: arguments[1]})
              .then(() => "answered", (error) => error.name);""", page.server.url, headers) == "TypeError"
    page.complaints()
