"""The report: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

import cv2
import numpy as np

from minusface.audit.curves import Line, chart
from minusface.audit.finding import Finding
from minusface.audit.plan import Audit
from minusface.audit.statement import Statement
from minusface.audit.tables import HEADS, overview, table, value_of
from minusface.audit.verdict import verdict
from minusface.errors import MinusfaceError

# Of 100; the eye sees no difference to 100.
WEBP_QUALITY = 90

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbf9; --ink: #1d2226; --soft: #5d676e; --line: #d9dcd8;
  --card: #fff; --bad: #b3261e; --good: #2c7a3f; --mid: #9a6a00; --note: #fff4e2; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181b; --ink: #e6e9ea; --soft: #98a3aa;
  --line: #313a40; --card: #1b2125; --bad: #ff8a80; --good: #7fd08f; --mid: #e5b85c; --note: #33281a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.6rem; margin: 0 0 .4rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
h3 { font-size: .95rem; margin: 1.2rem 0 .3rem; }
p { margin: .5rem 0; max-width: 80ch; } .soft { color: var(--soft); font-size: .9rem; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 14px; }
.box { border: 1px solid var(--line); border-radius: 10px; background: var(--card); padding: 4px 16px 10px; }
.box h2 { margin-top: .7rem; } ul { padding-left: 1.1rem; margin: .3rem 0; } li { margin: .35rem 0; }
.yes { color: var(--good); } .no, .failed { color: var(--bad); } .partly { color: var(--mid); }
.failed { font-weight: 700; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; background: var(--card);
  border: 1px solid var(--line); font-size: .88rem; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td.text, th.text { text-align: left; } thead th { color: var(--soft); font-weight: 600; }
td.text { min-width: 14rem; color: var(--soft); font-size: .82rem; } tr.own th { font-weight: 700; }
tr.control th, tr.control td { color: var(--soft); } tbody th { font-weight: 500; }
.grid-row { display: grid; grid-template-columns: minmax(9rem, 13rem) 1fr; gap: 10px; align-items: center;
  margin: 6px 0; } .grid-row span { font-size: .82rem; color: var(--soft); }
.grid-row img { width: 100%; max-width: 672px; display: block; border-radius: 4px; }
.note { background: var(--note); border-radius: 8px; padding: 8px 14px; font-size: .9rem; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 16px; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
svg { width: 100%; max-width: 640px; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--soft); } svg .grid { stroke: var(--line); }
"""
NAMES = {
    "viewing": "Viewing",
    "recovery": "Recovery of the photo (irreversibility)",
    "linkage": "Linking protected images to plain photos (identity)",
    "averaging": "Averaging images of one photo",
    "repetition": "The same photo, protected again",
    "unlinkability": "Linking templates of two services (unlinkability)",
    "templates": "Photos from stolen templates (irreversibility of templates)",
    "attributes": "Attributes",
    "inversion": "Inversion by gradient, generator known",
}
LISTS = (
    ("yes", "Protected, by these numbers"),
    ("partly", "Protected in part"),
    ("no", "Not protected"),
    ("unknown", "Not known"),
)


def report(audit: Audit, target: str, folder: Path) -> str:
    """The whole page; every text that comes from outside is escaped.

    Args:
        audit: what was found.
        target: name of the protection under audit.
        folder: which the findings' pictures are relative to.
    """
    title = f"Audit of {target}: what leaks anyway"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _controls(audit.findings),
        _verdict(verdict(audit.findings, target)),
        "<h2>Methods and measures</h2>",
        overview(audit, target),
        _pictures(audit, folder),
        _curves(audit.findings, target),
        *(_section(audit.findings, attack) for attack in NAMES),
        _about(audit),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>"
        + "\n".join(part for part in parts if part)
        + "</main></body></html>\n"
    )


def _controls(findings: list[Finding]) -> str:
    failed = [f for f in findings if f.failed]
    ran = dict.fromkeys(f.attack for f in findings if _is_tried(f))
    if not failed and not ran:
        return (
            '<p class="failed">No control was run: nothing here shows that an attack works where it must.'
            "</p>"
        )
    if not failed:
        names = ", ".join(escape(name) for name in ran)
        return f'<p class="soft">All controls passed ({names}): these attacks work where they must.</p>'
    said = "".join(
        f"<li>{escape(f.target)}, {escape(f.title)}: {escape(f.failed)}</li>" for f in failed
    )
    return (
        '<p class="failed">CONTROL FAILED. What an attack below says of protections proves nothing where '
        f'its control failed.</p><ul class="failed">{said}</ul>'
    )


def _is_tried(one: Finding) -> bool:
    """Whether it is a control that must succeed, and had the chance to fail: without a detector none has."""
    if one.attack == "viewing" and one.measures.get("faces found") is None:
        return False
    return one.control == "must succeed"


def _verdict(said: list[Statement]) -> str:
    boxes = []
    for kind, name in LISTS:
        texts = [escape(s.text) for s in said if s.kind == kind]
        if texts:
            lines = "".join(f"<li>{text}</li>" for text in texts)
            boxes.append(f'<div class="box"><h2 class="{kind}">{name}</h2><ul>{lines}</ul></div>')
    return (
        "<h2>What this protects, what it does not</h2>"
        '<p class="soft">Made from the numbers below by fixed rules: a measure less than 15 % of the way '
        "from a blind guess to the photo itself counts as protected, more than half as not protected. An "
        "attacker with more time, data or ideas gets further: these are lower bounds on what leaks.</p>"
        f'<div class="two">{"".join(boxes)}</div>'
    )


def _section(findings: list[Finding], attack: str) -> str:
    """One attack's findings in full."""
    own = [f for f in findings if f.attack == attack]
    if not own:
        return ""
    names = list(
        dict.fromkeys(name for f in own for name, v in f.measures.items() if v is not None)
    )
    heads = ["", *(HEADS.get(name, name) for name in names), "attacker", "learning"]
    lines = []
    for one in own:
        name = f"{one.target}: {one.variant}" if one.variant else one.target
        cells = [value_of(one, measure) for measure in names]
        text = [
            f'<td class="text">{escape(one.needs)}</td>',
            f'<td class="text">{_learning(one)}</td>',
        ]
        body = "".join(f"<td>{cell}</td>" for cell in cells) + "".join(text)
        kind = "control" if one.control else ""
        lines.append(f'<tr class="{kind}"><th scope="row">{escape(name)}</th>{body}</tr>')
    return f"<h2>{NAMES[attack]}</h2>{table(heads, lines)}"


def _learning(one: Finding) -> str:
    parts = []
    if one.failed:
        parts.append(f'<span class="failed">CONTROL FAILED: {escape(one.failed)}</span>')
    elif one.control:
        parts.append(f"control: {escape(one.control)}")
    if one.points:
        parts.append(
            f"{one.points[-1].images:,} images, {one.seconds:.0f} s, ended: {escape(one.stopped)}"
        )
    parts += [escape(note) for note in one.notes]
    return "; ".join(parts)


def _pictures(audit: Audit, folder: Path) -> str:
    """The same faces, a row a method."""
    rows = [("photos attacked", audit.faces)]
    for attack, key, words in (
        ("viewing", "", "protected"),
        ("viewing", "stretched", "protected, contrast stretched"),
        ("viewing", "unmixed", "protected, behind a filter that no shuffle changes"),
        ("recovery", "", "recovered"),
        ("averaging", "", "recovered from a mean of"),
        ("averaging", "shown", "mean, stretched, of"),
        ("templates", "", "from a template"),
        ("inversion", "", "inverted"),
    ):
        for one in audit.findings:
            file = str(one.extra.get(key, "")) if key else one.picture
            if one.attack == attack and file:
                rows.append((f"{one.target}: {words} {one.variant}".strip(), file))
    lines = "".join(
        f'<div class="grid-row"><span>{escape(words)}</span><img alt="{escape(words)}" '
        f'src="data:image/webp;base64,{_data(folder / file)}"></div>'
        for words, file in rows
    )
    whose = (
        f"Pictures {escape(audit.about['pictures'])}."
        if "pictures" in audit.about
        else "These are faces of the data under audit: this file is as sensitive as they are."
    )
    return f'<h2>The same faces, a row a method</h2><p class="note">{whose}</p>{lines}'


def _data(path: Path) -> str:
    """A picture, for the page: noise as PNG would make it ten times as large. Numbers come from the PNG."""
    try:
        coded = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
    picture = cv2.imdecode(coded, cv2.IMREAD_COLOR) if coded.size else None
    if picture is None:
        raise MinusfaceError(f"{path}: no picture, expected a PNG of an earlier audit")
    _, data = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY])
    return base64.b64encode(data.tobytes()).decode()


def _curves(findings: list[Finding], target: str) -> str:
    learning = [
        Line(
            f.target + (f", {f.variant}" if f.variant else ""),
            tuple((float(p.images), p.loss) for p in f.points),
            bool(f.control),
        )
        for f in findings
        if f.attack == "recovery"
        and f.points
        and "tried on" not in f.variant
        and f.variant != "residue"
    ]
    linked: dict[str, list[tuple[float, float]]] = {}
    means: list[tuple[float, float, float]] = []
    for one in findings:
        if one.attack == "linkage" and one.target == target:
            points = linked.setdefault(str(one.extra["backbone"]), [])
            points.append((float(one.extra["photos"]), one.measures["auc"] or 0.0))
        if one.attack == "averaging" and one.target == target:
            cosine, ssim = one.measures["cosine"] or 0.0, one.measures["ssim"] or 0.0
            means.append((float(one.extra["images"]), cosine, ssim))
    charts = [
        chart("Recovery: error against the attacker’s budget", "images learned from", "L1, held-out photos",
              learning),
        chart("Linkage against the attacker’s photos", "photos queried", "AUC",
              [Line(f"{target}, {name}", tuple(sorted(points))) for name, points in linked.items()]),
        chart("Averaging", "images of one photo", "",
              [Line("cosine to the photo", tuple((k, c) for k, c, _ in sorted(means))),
               Line("SSIM", tuple((k, s) for k, _, s in sorted(means)))]),
    ]  # fmt: skip
    shown = "".join(f"<div>{one}</div>" for one in charts if one)
    return f"<h2>Against the attacker’s budget</h2><div class=two>{shown}</div>" if shown else ""


def _about(audit: Audit) -> str:
    cells = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in audit.about.items())
    return (
        f"<h2>How these numbers came about</h2><dl>{cells}</dl>"
        '<p class="soft">Reported under the headings of ISO/IEC 24745 and 30136: accuracy of the protected '
        "service, irreversibility (recovery from images and templates), unlinkability (D_sys), with each "
        "attacker’s knowledge declared. This is a measurement, not a certificate.</p>"
    )
