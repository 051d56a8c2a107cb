"""Pages: HTML files that need neither network nor script; for wide screens, phones, paper and dark rooms."""
import base64
import html
import re
from itertools import zip_longest

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark; --text: #222; --soft: #5a5a5a; --line: #d8d8d8; --paper: #fff; --band: #f5f5f5; }}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ --text: #ddd; --soft: #a5a5a5; --line: #444; --paper: #1a1a1a; --band: #262626; }} }}
body {{ font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 66rem; padding: 0 1rem 3rem;
  color: var(--text); background: var(--paper); overflow-wrap: anywhere; }}
h1 {{ font-size: 1.45rem; }} h2 {{ font-size: 1.2rem; margin-top: 2.2rem; }} h3 {{ font-size: 1.05rem; }}
h1, h2, h3, h4 {{ line-height: 1.25; break-after: avoid; }} h4 {{ font-size: .92rem; margin: 1.2rem 0 .3rem; }}
a {{ color: inherit; }} .small, figcaption {{ color: var(--soft); font-size: .86rem; }}
figure {{ margin: 0; break-inside: avoid; }} figure img, figure svg {{ display: block; max-width: 100%; height: auto; }}
.wide {{ overflow: auto; max-height: 34rem; margin-bottom: .8rem; }}
table {{ border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }}
th, td {{ padding: .25rem 1.1rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line);
  white-space: nowrap; vertical-align: top; }}
tbody th {{ font-weight: 400; }} .number {{ text-align: right; }} tr {{ break-inside: avoid; }}
@media print {{ body {{ font-size: 11px; max-width: none; padding: 0; }} th, td {{ white-space: normal; }}
  .wide {{ overflow: visible; max-height: none; }} }}
{style}</style></head>
<body>
<h1>{title}</h1>
{body}</body>
</html>
"""


_NUMBER = re.compile(r"([-+]?(\d[\d,]*(\.\d*)?(e[-+]?\d+)?|inf)|nan|–|)")


class Markup(str):
    """Text that is HTML already."""


def page(title, body, style=""):
    """A whole page. title: text, its heading too; body: HTML; style: CSS, over what every page has."""
    return _PAGE.format(title=escape(title), body=body, style=style)


def escape(value):
    """Anything as text of a page or as the value of an attribute; Markup stays as it is."""
    return value if isinstance(value, Markup) else html.escape(str(value))


def number(value):
    """A value for people: floats in five digits, '–' for None."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return f"{value:,.0f}" if isinstance(value, int) or 1e5 <= abs(value) < 1e15 else f"{value:.5g}"


def table(columns, rows):
    """A table in a box of its own, in which it can be scrolled. columns: names; rows: lists of values; the first of
    each is its head."""
    rows = [list(row) for row in rows]
    kinds = [' class="number"' * all(map(_is_number, column)) for column in zip_longest(*rows)] or [""] * len(columns)
    head = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(columns, kinds))
    body = "".join(f"<tr>{_cells(row, kinds)}</tr>\n" for row in rows)
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>' \
           "</div>\n"


def _is_number(value):
    text = isinstance(value, str)
    return value is None or isinstance(value, (int, float)) or text and bool(_NUMBER.fullmatch(value))


def _cells(row, kinds):
    cells = [f"{kind}>{escape(number(value))}" for kind, value in zip(kinds, row)]
    return f'<th scope="row"{cells[0]}</th>' + "".join(f"<td{cell}</td>" for cell in cells[1:]) if cells else ""


def data_uri(image):
    """The bytes of a PNG or JPEG file as a URI, so that a page holds its pictures."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"  # of others, browsers look at the bytes
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
