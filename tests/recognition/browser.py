"""A browser that a test drives: Chromium through its driver's WebDriver interface, without further packages."""
import base64
import json
import shutil
import subprocess
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

DRIVERS, BROWSERS = ("chromedriver", "chromium.chromedriver"), ("chromium", "chromium-browser", "google-chrome")
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the standard's name of a reference to an element


def find_programs():
    """The paths of driver and browser; the test is skipped where one is missing."""
    found = [next(filter(None, map(shutil.which, names)), None) for names in (DRIVERS, BROWSERS)]
    if None in found:
        pytest.skip("no Chromium with its driver here: apt-get install chromium chromium-driver")
    return found


class Browser:
    """A headless Chromium. As a context it ends with the block. width, height: of its window, in pixels."""

    def __init__(self, folder, width=1100, height=900):
        driver, browser = find_programs()
        self._log = open(folder / "chromedriver.log", "w+")
        self._process = subprocess.Popen([driver, "--port=0"], stdout=self._log, stderr=self._log)
        self._url = f"http://127.0.0.1:{self._port()}"
        # --no-sandbox: containers and root have none; the other flags keep it from looking for the network
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                 "--disable-background-networking", f"--window-size={width},{height}",
                 f"--user-data-dir={folder / 'profile'}"]
        options = {"browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL"},
                   "goog:chromeOptions": {"binary": browser, "args": flags}}
        try:
            session = self._call("POST", "/session", capabilities={"alwaysMatch": options})
            self._url += f"/session/{session['sessionId']}"
        except Exception:
            self._stop()
            raise

    def _port(self):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            self._log.seek(0)
            words = self._log.read().partition("started successfully on port ")[2]
            if words:
                return int(words.split(".")[0])
            time.sleep(0.05)
        raise TimeoutError("the browser's driver does not start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self._call("DELETE", "")
        finally:
            self._stop()

    def _stop(self):
        self._process.terminate()
        self._process.wait(20)
        self._log.close()

    def _call(self, method, path, **values):
        data = None if method != "POST" else json.dumps(values).encode()
        try:
            with urlopen(Request(self._url + path, data, {"Content-Type": "application/json"}, method=method),
                         timeout=60) as answer:
                return json.load(answer)["value"]
        except HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error

    def open(self, url):
        """Go to a page."""
        self._call("POST", "/url", url=url)

    def run(self, script, *args):
        """The value of a function's body in the page; args are its `arguments`."""
        return self._call("POST", "/execute/sync", script=script, args=list(args))

    def text(self, selector):
        """The text of an element as it is shown."""
        return self.run("return document.querySelector(arguments[0]).innerText", selector)

    def type(self, selector, text):
        """Type into an element; into a choice of files, their paths with line ends between."""
        element = self._call("POST", "/element", using="css selector", value=selector)[_ELEMENT]
        self._call("POST", f"/element/{element}/value", text=text)

    def press(self, *keys):
        """Press keys one after the other, wherever the focus is."""
        actions = [dict(type=kind, value=key) for key in keys for kind in ("keyDown", "keyUp")]
        self._call("POST", "/actions", actions=[dict(type="key", id="keyboard", actions=actions)])

    def wait(self, script, *args):
        """Wait until a function's body gives something true, and give it."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            value = self.run(script, *args)
            if value:
                return value
            time.sleep(0.05)
        raise TimeoutError(script)

    def emulate(self, width, height, dark=False):
        """Show pages as a screen of this size does, in pixels, in a dark room or not."""
        for command, values in (
                ("Emulation.setDeviceMetricsOverride", dict(width=width, height=height, deviceScaleFactor=1,
                                                            mobile=width < 600)),
                ("Emulation.setEmulatedMedia", dict(features=[dict(name="prefers-color-scheme",
                                                                   value="dark" if dark else "light")]))):
            self._call("POST", "/goog/cdp/execute", cmd=command, params=values)

    def screenshot(self, path):
        """Write the whole page as PNG."""
        shot = self._call("POST", "/goog/cdp/execute", cmd="Page.captureScreenshot",
                          params=dict(captureBeyondViewport=True))
        path.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self):
        """What the browser has complained of since the last call: errors of scripts, refused by a policy, ..."""
        return [entry["message"] for entry in self._call("POST", "/se/log", type="browser")]
