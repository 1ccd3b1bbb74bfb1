"""The report: one HTML file that needs nothing beside it, light and dark, for small screens too."""

from __future__ import annotations

import base64
import math
from html import escape

from minusface.demo.findings import (
    PROTECTED,
    RESIDUE,
    TITLES,
    UNPROTECTED,
    Findings,
    percent,
    sentences,
)
from minusface.demo.pictures import Pictures, png
from minusface.evaluate import VerificationResult
from minusface.types import UInt8

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbf9; --ink: #1d2226; --soft: #5d676e; --line: #d9dcd8;
  --card: #ffffff; --plain: #4a6fa5; --residue: #7d8a6a; --protected: #c2571a; --note: #fff4e2; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181b; --ink: #e6e9ea; --soft: #98a3aa;
  --line: #313a40; --card: #1b2125; --plain: #8db3e8; --residue: #aebd95; --protected: #f0935a;
  --note: #33281a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.7rem; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.12rem; margin: 2.2rem 0 .7rem; }
p { margin: .5rem 0; max-width: 74ch; } .soft { color: var(--soft); }
.row { display: flex; flex-wrap: wrap; gap: 14px; align-items: flex-end; margin: 1.1rem 0 .4rem; }
figure { margin: 0; width: 140px; } figure.photo { width: 210px; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; border: 1px solid var(--line); }
figcaption { font-size: .8rem; line-height: 1.3; margin-top: 5px; color: var(--soft); min-height: 2.6em; }
.groups { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr));
  gap: 14px; margin: .6rem 0; }
.group { display: flex; flex-wrap: wrap; gap: 10px; padding: 10px; align-content: flex-start;
  border: 1px solid var(--line); border-radius: 10px; background: var(--card); }
.group figure { width: calc((100% - 20px) / 3); max-width: 160px; } .group figcaption { min-height: 0; }
.group .title { flex-basis: 100%; font-size: .8rem; font-weight: 600; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; }
th, td { text-align: right; padding: 8px 12px; border-bottom: 1px solid var(--line); white-space: nowrap; }
tr:last-child > * { border-bottom: 0; }
th:first-child { text-align: left; min-width: 8.5rem; white-space: normal; }
thead th { font-size: .8rem; color: var(--soft); font-weight: 600; white-space: normal; }
tbody th { font-weight: 500; }
@media (min-width: 900px) { tbody th:first-child { white-space: nowrap; } }
tr.stage2 th, tr.stage2 td { font-weight: 700; }
ul { padding-left: 1.15rem; max-width: 76ch; } li { margin: .35rem 0; }
.note { background: var(--note); border-radius: 8px; padding: 8px 14px; font-size: .9rem; }
.two { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 10px 34px; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 16px; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code, pre { font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere;
  white-space: pre-wrap; }
svg { width: 100%; max-width: 560px; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--soft); } svg .grid { stroke: var(--line); }
@media (max-width: 640px) { .row { align-items: flex-start; } .two { grid-template-columns: 1fr; }
  main { padding: 18px 14px 40px; }
  .row figure { width: calc((100% - 28px) / 3); } .row figure.photo { width: 100%; } }
"""

WHAT = (
    "MinusFace sends a server an image meant to look like noise in the place of a face photo: from the "
    "photo’s frequency features it subtracts what a network can redraw, and shuffles the rest with a "
    "fresh random permutation. A recogniser trained on such images is to tell who is the same person; the "
    "numbers below say how well this one does."
)
PROTECTS = (
    "<b>Looking.</b> The method is meant to leave a person, or a system made for photos, no face to see in "
    "a protected image. How far this model gets there is in the pictures above.",
    "<b>A server that receives only protected images.</b> The photo and the permutation stay with the "
    "client; the permutation is drawn anew for each image.",
)
SMALL = (
    "<b>A small model, trained for minutes.</b> These numbers show that the journey works, not how good "
    "the method is; other people, cameras and ages will do worse."
)
PACKAGED = (
    "<b>Weights of one research collection.</b> They learned from 9,525 news photos (LFW) on two processor "
    "cores; other people, cameras and ages will do worse."
)
PROTECTS_NOT = (
    "<b>Identity is kept by design.</b> Whoever holds protected images and a recogniser for them can tell "
    "which belong to the same person; that is what they are for.",
    "<b>No attack was run here.</b> SSIM and PSNR compare pixels. They do not measure identity leakage, "
    "nor what someone could rebuild who trains against this protector, or who sees one photo protected "
    "many times.",
)
# Of the rates that are measured, those that a thousand pairs can tell.
FARS = (0.1, 0.01)
COLOURS = {UNPROTECTED: "plain", RESIDUE: "residue", PROTECTED: "protected"}


def report(found: Findings, pictures: Pictures) -> str:
    """The whole page. Every text that comes from outside is escaped."""
    title = "MinusFace: what a server sees of a photo"
    parts = [
        f"<h1>{title}</h1><p>{WHAT}</p>",
        picture_row(found, pictures),
        "<h2>Is it the same person?</h2>",
        table(found),
        f'<p class="soft">{escape(found.held_out)}</p>',
        items([escape(sentence) for sentence in sentences(found)]),
        roc(found.rows),
        '<div class="two"><div><h2>Protected, from whom</h2>',
        items(list(PROTECTS)),
        "</div><div><h2>Not protected, not shown</h2>",
        items([PROTECTS_NOT[0], PACKAGED if found.weights else SMALL, *PROTECTS_NOT[1:]]),
        "</div></div>",
        how(found),
        "<h2>Next</h2>",
        f"<pre>{escape(found.next_command)}</pre>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body><main>"
        + "\n".join(parts)
        + "</main></body></html>\n"
    )


def picture_row(found: Findings, pictures: Pictures) -> str:
    """From the photo to what leaves the client."""
    first = [
        figure(pictures.photo, f"Photo: {found.photo}. The box is the face found.", "photo"),
        figure(pictures.crop, "Aligned crop, 112×112. Stays with the client."),
        figure(pictures.regenerated, "Regenerated: what the generator can redraw."),
        figure(
            pictures.residue,
            f"Residue, decoded: ±{found.residue_levels:.1f} of 255 levels about grey.",
        ),
    ]
    sent = [
        figure(image, f"permutation {number + 1}")
        for number, image in enumerate(pictures.protected)
    ]
    seen = [figure(image, "contrast stretched") for image in pictures.stretched]
    behind = [figure(image, "outlines") for image in pictures.outlined]
    return (
        f'<div class="row">{"".join(first)}</div>'
        '<div class="groups"><div class="group"><div class="title">Protected: what leaves the client, under '
        "three permutations, of eight tries each the one that shows least</div>"
        f"{''.join(sent)}</div>"
        '<div class="group"><div class="title">The same three as the recogniser standardises them: look '
        f"here for what shows through</div>{''.join(seen)}</div>"
        '<div class="group"><div class="title">The same three behind a filter that no permutation changes: '
        f"anybody can apply it</div>{''.join(behind)}</div></div>"
        '<p class="note">This file holds the photo and the crop. It stays on this machine unless you '
        "pass it on. The faces trained and evaluated on are not in it.</p>"
    )


def figure(image: UInt8, caption: str, kind: str = "") -> str:
    """A picture inside the page, with its caption (plain text)."""
    data = base64.b64encode(png(image)).decode()
    height, width = image.shape[:2]
    name = f' class="{kind}"' if kind else ""
    text = escape(caption)
    return (
        f'<figure{name}><img src="data:image/png;base64,{data}" width="{width}" height="{height}" '
        f'alt="{text}"><figcaption>{text}</figcaption></figure>'
    )


def items(entries: list[str]) -> str:
    """A list of HTML."""
    return "<ul>" + "".join(f"<li>{entry}</li>" for entry in entries) + "</ul>"


def table(found: Findings) -> str:
    """Recognition on the held-out pairs."""
    head = ["", "accuracy ± std of folds", f"std of {found.draws} draws", "AUC", "EER"]
    head += [f"TAR at FAR {far:g}" for far in FARS]
    lines = []
    for name, row in found.rows.items():
        cells = [
            f"{100 * row.accuracy:.1f} ± {100 * row.accuracy_std:.1f} %",
            "–" if row.accuracy_spread is None else f"± {100 * row.accuracy_spread:.1f}",
            f"{row.auc:.3f}",
            percent(row.eer),
            *(_rate(row.tar_at_far.get(far)) for far in FARS),
        ]
        body = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(
            f'<tr class="{escape(name)}"><th scope="row">{escape(TITLES.get(name, name))}</th>{body}</tr>'
        )
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _rate(value: float | None) -> str:
    return "–" if value is None else percent(value)


def how(found: Findings) -> str:
    """Budget, data, versions: what is needed to do it again."""
    rows = [("trained on", found.data), ("objective", found.objective)]
    if found.weights:
        rows = [("weights", f"{found.weights} (packaged; nothing was trained here)")]
    for one in found.trained:
        what = (
            f"{one.seconds:.0f} s, {one.steps} steps, {one.epochs:.2f} epochs, "
            f"{one.images_per_second:.0f} images/s"
        )
        rows.append((f"training {one.task}", what))
    rows += list(found.settings.items())
    cells = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in rows)
    return f"<h2>How these numbers came about</h2><dl>{cells}</dl>"


def roc(rows: dict[str, VerificationResult]) -> str:
    """ROC curves with a logarithmic FAR axis, as SVG; nothing where there is no curve."""
    curves = {name: row.curve() for name, row in rows.items() if name in COLOURS}
    if not curves:
        return ""
    left, top, width, height = 46, 30, 400, 230
    lowest = min((far for curve in curves.values() for far, _ in curve if far > 0), default=0.01)
    decades = max(1, min(4, math.ceil(-math.log10(lowest) - 1e-9)))

    def x(far: float) -> float:
        return left + width * (1 + max(math.log10(max(far, 1e-12)), -decades) / decades)

    def y(tar: float) -> float:
        return top + height * (1 - tar)

    drawn = []
    for step in range(decades + 1):
        at = x(10.0**-step)
        drawn.append(
            f'<line class="grid" x1="{at:.1f}" y1="{top}" x2="{at:.1f}" y2="{top + height}"/>'
        )
        label = f"{10.0**-step:g}"
        drawn.append(
            f'<text x="{at:.1f}" y="{top + height + 16}" text-anchor="middle">{label}</text>'
        )
    for tar in (0.0, 0.5, 1.0):
        drawn.append(
            f'<line class="grid" x1="{left}" y1="{y(tar)}" x2="{left + width}" y2="{y(tar)}"/>'
        )
        drawn.append(f'<text x="{left - 7}" y="{y(tar) + 4}" text-anchor="end">{tar:g}</text>')
    for number, (name, curve) in enumerate(curves.items()):
        points = " ".join(
            f"{x(far):.1f},{y(tar):.1f}" for far, tar in _visible(curve, 10.0**-decades)
        )
        colour = f"var(--{COLOURS[name]})"
        drawn.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        at = top + 18 + 18 * number
        drawn.append(
            f'<rect x="{left + width + 16}" y="{at - 9}" width="12" height="3" fill="{colour}"/>'
        )
        drawn.append(
            f'<text x="{left + width + 34}" y="{at - 4}">{escape(TITLES.get(name, name))}</text>'
        )
    drawn.append(
        f'<text x="{left + width / 2}" y="{top + height + 34}" text-anchor="middle">'
        "FAR: different people taken for one</text>"
    )
    drawn.append(f'<text x="{left - 34}" y="{top - 14}">TAR: the same person recognised</text>')
    return (
        '<h2>ROC</h2><svg viewBox="0 0 680 304" role="img" '
        f'aria-label="ROC curves on the held-out pairs">{"".join(drawn)}</svg>'
    )


def _visible(curve: list[tuple[float, float]], lowest: float) -> list[tuple[float, float]]:
    """The curve from the leftmost false-accept rate that is drawn, as steps."""
    start = max((tar for far, tar in curve if far <= lowest), default=0.0)
    points = [(lowest, start)]
    for far, tar in curve:
        if far > lowest:
            points += [(far, points[-1][1]), (far, tar)]
    return points
