"""The verdict's rules on whose photo it is: linkage, templates of services, stolen ones, attributes."""

from __future__ import annotations

from minusface.audit.finding import Finding, find
from minusface.audit.statement import (
    FLOOR,
    IMPROVING,
    NOBODY,
    Statement,
    blind_judge,
    concluded,
    judged,
    measured,
    part_of_the_way,
    percent,
    unfinished,
)

COLD = " It began from random weights: one that begins from a recogniser of photos may learn more."
SECRET_D = 0.1  # D_sys below which services are told apart from chance hardly at all
# The control: within a service people must be told apart; by this equal error rate they hardly are.
HARDLY = 0.3
# By words of a variant, who can do without the keys. Findings that were kept before the rest of a variant's
# words changed have these too.
HOLDERS = {
    "known in both": "is, or knows, people enrolled in both services",
    "laid over": "knows nobody in either gallery, but lays their shapes over one another",
}


def linkage(findings: list[Finding], target: str) -> list[Statement]:
    """Whether images are linked to plain photos."""
    found = [f for f in findings if f.attack == "linkage" and f.target == target]
    plain = find(findings, "linkage", "unprotected")
    if not found:
        return []
    if plain is not None and plain.failed:
        return [Statement("unknown", f"Linkage: {plain.failed}.")]
    # Each number is of the student that got most by it.
    auc, accuracy, top = (
        max(one.measures.get(name) or 0.0 for one in found) for name in ("auc", "accuracy", "top-1")
    )
    best = max(found, key=lambda one: one.measures["auc"] or 0.0)
    counts = {one.extra["photos"] for one in found}
    who = f"students of {min(counts)} to {max(counts)} queried photos tell"
    if len(counts) == 1:
        who = f"a student of {max(counts)} queried photos tells"
    reference = 1.0 if plain is None else plain.measures["auc"] or 1.0
    gallery = best.extra.get("gallery", 0)
    part = part_of_the_way(auc, 0.5, reference, FLOOR)
    kind = judged(part)
    improving = any(one.still_improving for one in found)
    lower = (NOBODY if part is None else "") + (IMPROVING if improving else "")
    if kind == "yes":
        # The service recognises people, so that identity is there: a student that misses it shows nothing.
        kind = "unknown"
        lower = lower or " It learned little of it: a longer one may (--longer)."
    if all(one.extra.get("start") == "cold" for one in found):
        lower += COLD
    return [
        Statement(
            kind,
            f"Identity is kept by design: {who} which plain photo shows the person of a protected image: "
            f"{percent(accuracy)} of pairs right (chance 50 %), the right one of {gallery} people first in "
            f"{percent(top)}.{lower} Protected images are biometric data.",
        )
    ]


def unlinkability(findings: list[Finding], target: str) -> list[Statement]:
    """Whether two services can link their templates."""
    bare = find(findings, "unlinkability", target, "no keys")
    keyed = find(findings, "unlinkability", target, "a key a service")
    if bare is None or keyed is None:
        return []
    within = bare.measures.get("eer within")
    if within is None or not within < HARDLY:
        how = "not measured" if within is None else f"equal error rate {percent(within)}"
        words = f"Templates of two services: within one they tell people hardly apart ({how})"
        return [Statement("unknown", f"{words}, so that there is nothing to link.")]
    a, b = bare.measures["d_sys"] or 0.0, keyed.measures["d_sys"] or 0.0
    kind = "yes" if a < SECRET_D else "no"
    said = [
        Statement(
            kind,
            f"Two services that share a model {'cannot' if kind == 'yes' else 'can'} link their templates: "
            f"D_sys {a:.2f} (0 unlinkable, 1 fully linkable). With a secret key a service it is {b:.2f}.",
        )
    ]
    for one in findings:
        who = next((w for part, w in HOLDERS.items() if part in one.variant), None)
        if one.attack == "unlinkability" and who is not None:
            c = one.measures["d_sys"] or 0.0
            words = f"Template keys against somebody who {who}: D_sys {c:.2f} ({one.variant})."
            # What one attacker did not find, with so many templates, another may.
            said.append(Statement("no" if c > SECRET_D else "unknown", words))
    return said


def stolen(findings: list[Finding], target: str) -> list[Statement]:
    """Whether a stolen template shows whose it is: identity in the face that a decoder rebuilds from it.

    Its control is that of the recoveries: what the judge tells of the photo itself, sent through a network.
    """
    own = find(findings, "templates", target, "stolen")
    keyed = find(findings, "templates", target, "stolen, under a key")
    if own is None or keyed is None:
        return []
    plain = find(findings, "recovery", "unprotected")
    auc, most = own.measures["auc"], measured(plain, "auc")
    judge = blind_judge(findings)
    if plain is None:
        judge = " Nothing can be concluded: the recovery from the photo itself was not run."
    elif plain.failed:
        judge = f" Nothing can be concluded: the control failed ({plain.failed})."
    part = None if judge else part_of_the_way(auc, 0.5, most, FLOOR)
    why = unfinished(own) if part is not None else judge or NOBODY
    beside = "" if most is None else f", the photo {most:.2f}"
    return [
        Statement(
            concluded(part, own, [own]),
            "From a stolen template: of the face that a decoder trained on queries rebuilds, an independent "
            f"recogniser tells whose it is with AUC {auc or 0.0:.2f} (chance 0.50{beside}); cosine to the "
            f"photo {own.measures['cosine'] or 0.0:.2f}. Of a template under a key that was not stolen with "
            f"it: AUC {keyed.measures['auc'] or 0.0:.2f}, cosine {keyed.measures['cosine'] or 0.0:.2f}.{why}",
        )
    ]


def attributes(findings: list[Finding], target: str) -> list[Statement]:
    """Whether an attribute is told from images."""
    said = []
    for own in [f for f in findings if f.attack == "attributes" and f.target == target]:
        plain = find(findings, "attributes", "unprotected", own.variant)
        if plain is None or plain.failed:
            why = plain.failed if plain is not None else "there is no control"
            said.append(Statement("unknown", f"Attribute {own.variant}: {why}."))
            continue
        a, b = own.measures["balanced accuracy"] or 0.5, plain.measures["balanced accuracy"] or 0.5
        part, lower, order = part_of_the_way(a, 0.5, b), unfinished(own), ""
        c, d = measured(own, "auc"), measured(plain, "auc")
        if c is not None and d is not None:
            # At one threshold nothing may be told right, where the order of scores tells it still.
            ordered, order = part_of_the_way(c, 0.5, d, FLOOR), f"; AUC {c:.2f} and {d:.2f}"
            part = max((p for p in (part, ordered) if p is not None), default=None)
        kind = judged(part)
        if lower and kind == "yes":
            # An attack that was not done, or had hardly begun, cannot show that something is protected.
            kind = "unknown"
        said.append(
            Statement(
                kind,
                f"Attribute {own.variant}: told right in {percent(a)} of protected images, in {percent(b)} "
                f"of photos (chance 50 %{order}).{lower}",
            )
        )
    return said
