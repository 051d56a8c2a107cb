"""The local web page for comparing and searching faces; its script is web_page.js."""
from common.pages import Markup, escape, page

_STYLE = """
:root { --same: #00619a; --other: #a94700; --same-band: #e2f0f9; --other-band: #fcebdd; }
@media screen and (prefers-color-scheme: dark) {
  :root { --same: #7cc4f0; --other: #ffa868; --same-band: #12303f; --other-band: #40260f; } }
[hidden] { display: none !important; }
.drop { display: block; border: 2px dashed var(--line); border-radius: .8rem; padding: 1.6rem 1rem; text-align: center;
  background: var(--band); cursor: pointer; }
.drop b { display: block; font-size: 1.1rem; margin-bottom: .2rem; }
.drop input { position: absolute; width: 1px; height: 1px; opacity: 0; }
.drop:hover, .drop.over { border-color: var(--same); }
.drop:focus-within, button:focus-visible, .wide:focus-visible { outline: 3px solid var(--same); outline-offset: 2px; }
.bar { display: flex; gap: 1rem; justify-content: space-between; align-items: center; min-height: 3.6rem; }
#status.problem { color: var(--other); }
#faces { list-style: none; margin: 0; padding: 0; display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
#faces > li { display: flex; gap: .9rem; border: 1px solid var(--line); border-radius: .8rem; padding: .7rem;
  align-items: flex-start; }
#faces img, #faces .none { width: 7rem; height: 7rem; border-radius: .5rem; flex: none; background: var(--band); }
#faces .none { display: grid; place-items: center; font-size: 2rem; color: var(--soft); }
#faces div { flex: 1; min-width: 0; } #faces p { margin: 0 0 .3rem; font-size: .92rem; }
#faces ol { margin: .2rem 0 .4rem; padding: 0; list-style: none; font-size: .92rem; }
#faces ol li { display: flex; gap: .6rem; justify-content: space-between; }
.value { font-variant-numeric: tabular-nums; }
button { font: inherit; font-size: .86rem; color: inherit; background: var(--paper); border: 1px solid var(--line);
  border-radius: .5rem; padding: .3rem .7rem; min-height: 2.2rem; cursor: pointer; }
button:hover { border-color: var(--same); }
#verdict { margin: 0 0 1.2rem; padding: 1rem; border-radius: .8rem; text-align: center; background: var(--band); }
#verdict strong { display: block; font-size: 1.6rem; line-height: 1.25; }
.same { color: var(--same); } .other { color: var(--other); }
#verdict.same { background: var(--same-band); } #verdict.other { background: var(--other-band); }
td.same { background: var(--same-band); } td.other { background: var(--other-band); }
#matrix th, #matrix td { padding: .35rem .6rem; text-align: center; } #matrix img { width: 2.6rem; height: 2.6rem;
  border-radius: .3rem; display: block; margin: 0 auto .1rem; }
"""
_BODY = """<p>{what}</p>
<noscript><p class="other">This page needs its script, and no other.</p></noscript>
<main data-pictures="{limits.pictures}" data-bytes="{limits.bytes}">
<label class="drop" id="drop"><input type="file" id="choose" multiple
  accept="image/jpeg,image/png,image/webp,image/bmp"><b>Choose pictures</b>
<span class="small">or drop or paste them here: two or more, at most {limits.pictures}</span></label>
<div class="bar"><output id="status" aria-live="polite"></output>
<button type="button" id="clear" hidden>Remove all</button></div>
<div id="verdict" role="status" hidden></div>
<ul id="faces" aria-label="faces"></ul>
<section id="matrix" hidden><h2>Every face against every other</h2>
<div class="wide" tabindex="0" role="region" aria-label="similarities"><table></table></div></section>
</main>
<h2>How to read it</h2>
<p class="small">{how}</p>
<p class="small">Pictures go to the program at this address and nowhere else; it keeps none of them and writes none to
disk. Model: {model}.</p>
<script src="/page.js"></script>
"""


def make_page(recogniser, gallery, limits):
    """The page as HTML. recogniser: a Recogniser; gallery: a Gallery or None; limits: a `web_server.Limits`."""
    what = "Are two faces of the same person?"
    if gallery is not None:
        what += f" And who of the {len(gallery.identities()):,} people in the gallery is it?"
    if not recogniser.finder.finds:
        what += " Pictures have to be aligned faces of {}x{} pixels.".format(*recogniser.finder.image_shape[::-1])
    return page("Compare faces", _BODY.format(what=what, how=_how(recogniser, gallery), limits=limits,
                                              model=escape(recogniser.model)), Markup(_STYLE))


def _how(recogniser, gallery):
    threshold = recogniser.threshold
    text = "The similarity is the cosine between two faces' embeddings: 1 for the same picture, about 0 for strangers. "
    if threshold is None:
        return text + "No threshold is known, so nothing is decided."
    text += f"From {threshold.cosine:.4f} on two faces count as the same person."
    if threshold.far is not None:
        text += f" With this threshold, at most {threshold.far:g} of the pairs of strangers in " \
                f"{escape(threshold.origin)} were taken for one person."
    if gallery is not None and threshold.far is not None:
        strangers = threshold.strangers(len(gallery.identities()))
        text += f" Of strangers to the gallery, about {strangers:.2%} are taken for somebody in it."
    return text
