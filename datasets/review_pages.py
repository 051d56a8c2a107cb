"""HTML pages on which a person decides, image by image; each is one file that needs neither network nor server.

A page holds cards: what is to be decided, with buttons, beside pictures to compare it with. Its button saves the
decisions as a CSV file named <folder>-page-0001.csv, which `datasets/clean.py apply` takes.
"""
import html
import json
from pathlib import Path
from typing import List, NamedTuple, Tuple

from common.files import write_text
from common.pages import data_uri

REVIEW = "review"  # what stands in a list while nobody has decided


class Card(NamedTuple):
    """One decision. key: values that name it in the list; images: encoded, what is decided on; decision: as proposed,
    or REVIEW."""

    key: Tuple
    images: List[bytes]
    caption: str
    decision: str = REVIEW


class Group(NamedTuple):
    """Cards side by side. images: encoded, to compare them with."""

    title: str
    images: List[bytes]
    cards: List[Card]


def write_pages(folder, groups, columns, choices, question, per_page=100):
    """Write page-0001.html, page-0002.html, ... and index.html, which links to them.

    groups: an iterable of Group, of which one page is in memory at a time; columns: names of a card's key; choices:
    the decisions there are, the first the one that changes nothing; question: what a person is asked, one line;
    per_page: cards on a page, 1 or more. Returns the number of pages.
    """
    folder = Path(folder)
    lines = [_write_page(folder, number, page, columns, choices, question)
             for number, page in enumerate(_split(groups, per_page), 1)]
    write_text(folder / "index.html", _HEAD.format(title="Pages to decide" if lines else "Nothing to decide")
               + f"<ol>{''.join(lines)}</ol>\n")
    return len(lines)


def _split(groups, per_page):
    """Lists of groups with at most per_page cards in all; a group goes to the next page whole where it fits there."""
    page, count = [], 0
    for group in groups:
        for start in range(0, len(group.cards), per_page):
            part = group._replace(cards=group.cards[start:start + per_page])
            if page and count + len(part.cards) > per_page:
                yield page
                page, count = [], 0
            page.append(part)
            count += len(part.cards)
    if page:
        yield page


def _write_page(folder, number, page, columns, choices, question):
    """Write one page; returns the line of the index that links to it."""
    name, count = f"page-{number:04d}", sum(len(group.cards) for group in page)
    body = "\n".join(_group(group, choices) for group in page)
    buttons = "".join(f'<button class=rest value="{choice}">all others: {choice}</button>' for choice in choices)
    write_text(folder / f"{name}.html", _HEAD.format(title=f"{name}: {question}")
               + _TOP.format(buttons=buttons) + body + _SCRIPT % (
                   ",".join((*columns, "decision")), _script_text(f"{folder.name}-{name}.csv")))
    return f'<li><a href="{name}.html">{name}</a>: {count} to decide, {html.escape(page[0].title)} and on\n'


def _script_text(text):
    return json.dumps(text).replace("<", "\\u003c")  # so that no name of a folder ends the script


def _group(group, choices):
    return (f"<section><h2>{html.escape(group.title)}</h2><div class=row>{_pictures(group.images)}</div>"
            f"<div class=row>{''.join(_card(card, choices) for card in group.cards)}</div></section>")


def _card(card, choices):
    key = ",".join(map(str, card.key))
    buttons = "".join(f'<label><input type=radio name="{key}" value="{choice}"'
                      f'{" checked" * (choice == card.decision)}>{choice}</label>' for choice in choices)
    return (f'<fieldset data-key="{key}">{_pictures(card.images)}<p>{html.escape(card.caption)}</p>'
            f"<p>{buttons}</p></fieldset>")


def _pictures(images):
    return "".join(f'<img src="{data_uri(image)}">' for image in images)


_HEAD = """<!DOCTYPE html>
<html lang=en><meta charset=utf-8><title>{title}</title>
<style>
body {{ font: 14px sans-serif; margin: 1em }} h2 {{ font-size: 15px; margin: 0 }} p {{ margin: 4px 0 }}
header {{ position: sticky; top: 0; background: #fff; padding: 8px 0; border-bottom: 1px solid #999 }}
section {{ border-top: 1px solid #ccc; padding: 8px 0 }} .row {{ display: flex; flex-wrap: wrap; gap: 4px }}
fieldset {{ border: 3px solid #bbb; margin: 6px 0; padding: 4px; max-width: 720px }}
fieldset.decided {{ border-color: #37c }}
img {{ height: 112px }} label, button {{ margin-right: 8px; cursor: pointer }}
</style>
<h1>{title}</h1>
"""
_TOP = """<header><span id=count></span> <button id=save>save decisions</button> {buttons}</header>
"""
_SCRIPT = """
<script>
"use strict";
const cards = [...document.querySelectorAll("fieldset")];
const chosen = card => card.querySelector("input:checked");
function show() {
  cards.forEach(card => card.classList.toggle("decided", !!chosen(card)));
  document.getElementById("count").textContent = cards.filter(chosen).length + " of " + cards.length + " decided";
}
document.addEventListener("change", show);
document.querySelectorAll("button.rest").forEach(button => button.onclick = () => {
  cards.filter(card => !chosen(card)).forEach(card => card.querySelector(`[value="${button.value}"]`).checked = true);
  show();
});
document.getElementById("save").onclick = () => {
  const lines = cards.map(card => card.dataset.key + "," + (chosen(card) ? chosen(card).value : "review"));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["%s\\n" + lines.join("\\n") + "\\n"], {type: "text/csv"}));
  link.download = %s;
  link.click();
};
show();
</script>
"""
