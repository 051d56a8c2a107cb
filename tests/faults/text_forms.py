"""Text files that commands read, lists, tables and JSON, each with the wrong sizes and the attacks that are its own."""
import json
import re

import numpy as np
from damages import Form, nothing

HUGE = 10 ** 12
NAMES = ("../../escaped.jpg", "/etc/passwd", "/dev/zero", "..", "a\0b.jpg", "n" * 300 + ".jpg", "\x1b[2Jx.jpg")
NUMBERS = ("-1", "9" * 30, "9" * 5000, "nan", "1e999", "0.5", "0x1", "")


def _text_hostile(data, canary):
    """Numbers and names that are none in the middle of a text, and other encodings of it."""
    text, made = data.decode(), {}
    middle = text.rfind("\n", 0, len(text) // 2 + 1) + 1
    number, name = (re.compile(pattern).search(text, middle)
                    for pattern in (r"(?<![\w.])\d+(?![\w.])", r"[^\s,]*[a-zA-Z][^\s,]*"))
    for kind, found, values in (("number", number, NUMBERS), ("name", name, NAMES)):
        for value in values if found else ():
            made[f"{kind} {value[:20]!r}"] = (text[:found.start()] + value + text[found.end():]).encode()
    long = text[:middle] + "x" * (1 << 20) + "\n" + text[middle:]
    return {**made, "a line of a million letters": long.encode(), "UTF-16": text.encode("utf-16"),
            "no UTF-8": data[:middle] + b"\xff\xfe\x80" + data[middle:],
            "a quote that does not end": data[:middle] + b'"' + data[middle:],
            "zeros": data[:middle] + bytes(40) + data[middle:]}


def _text_sizes(data, canary):
    lines = data.splitlines(keepends=True)
    middle = len(lines) // 2
    return {"a line twice": b"".join(lines[:middle + 1] + lines[middle:]),
            "a field less in a line": b"".join([*lines[:middle], re.sub(rb"[\s,]+\S+$", b"\n", lines[middle].rstrip()),
                                                *lines[middle + 1:]]),
            "a field more in a line": b"".join([*lines[:middle], lines[middle].rstrip() + b"\t7,7\n",
                                                *lines[middle + 1:]])}


TEXT = Form("text", _text_sizes, _text_hostile)


def _property_hostile(data, canary):
    return {text[:40]: text.encode() for text in (
        "0,16,16", "-3,16,16", f"{HUGE},16,16", f"3,{HUGE},{HUGE}", "3,100000,100000", "16777217,16,16", "3.0,16,16",
        "nan,16,16", f"{'9' * 5000},16,16", "3,16,16,16", "3,16", "3;16;16", "٣,16,16")}


FIRST_LINE = "lines behind the first are left alone"
PROPERTY = Form("text", lambda data, canary: {"other images": b"3,32,32\n", "other classes": b"2,16,16\n"},
                _property_hostile, accepts={"wrong size: twice": FIRST_LINE, "wrong size: 64": FIRST_LINE})


def _index_hostile(data, canary):
    lines = data.splitlines()
    numbers, offsets = zip(*(line.split(b"\t") for line in lines))
    made = {"offsets exchanged": (numbers, offsets[::-1]),
            "offsets beyond the file": (numbers, (b"9" * 17,) * len(lines)),
            "numbers beyond the set": ([b"%d" % (10 ** 17 + k) for k in range(len(lines))], offsets),
            "offsets in between": (numbers, [b"%d" % (int(offset) + 4) for offset in offsets]),
            "all at byte 0": (numbers, [b"0"] * len(lines)), "all of one number": ([b"0"] * len(lines), offsets)}
    made = {name: b"".join(b"%s\t%s\n" % pair for pair in zip(*columns)) for name, columns in made.items()}
    return {**made, "a number of 5000 digits": data + b"9" * 5000 + b"\t0\n", "less than 0": data + b"-1\t0\n"}


INDEX = Form("text", _text_sizes, _index_hostile)


# JSON

JSON_VALUES = (None, True, -1, 10 ** 400, float("inf"), float("nan"), "\ud800", "x" * 300, "../../escaped", [], {},
               [[1]], {"a": 1}, 0.5, "\x1b[2J")


def _leaves(value, path=()):
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    yield path
    for key, part in inner:
        yield from _leaves(part, (*path, key))


def _with(value, path, new):
    if not path:
        return new
    copied = value.copy()
    copied[path[0]] = _with(value[path[0]], path[1:], new)
    return copied


def _without(value, path):
    copied = value.copy()
    if len(path) == 1:
        del copied[path[0]]
    else:
        copied[path[0]] = _without(value[path[0]], path[1:])
    return copied


def json_hostile(data, canary):
    graph, made = json.loads(data), {}
    leaves = list(_leaves(graph))
    rng = np.random.RandomState(len(leaves))
    for number in rng.permutation(len(leaves))[:30]:
        path, value = leaves[number], JSON_VALUES[rng.randint(len(JSON_VALUES))]
        changed = _with(graph, path, value)
        if changed != graph:
            made[f"{'/'.join(map(str, path))} = {str(value)[:20]!r}"] = json.dumps(changed).encode()
        if path:
            made[f"{'/'.join(map(str, path))} left out"] = json.dumps(_without(graph, path)).encode()
    return {**made, "nested deeply": b"[" * 100000, "a number of 10000 digits": b'{"done": %s}' % (b"1" * 10000),
            "UTF-16": data.decode().encode("utf-16"), "no UTF-8": data.replace(b"e", b"\xff", 1)}


JSON = Form("json", nothing, json_hostile)


def _lines_hostile(data, canary):
    """JSON lines: the attacks on JSON in the second line."""
    first, second, rest = data.split(b"\n", 2)
    return {name: first + b"\n" + line + b"\n" + rest for name, line in json_hostile(second, canary).items()}


JSON_LINES = Form("json lines", _text_sizes, _lines_hostile)
