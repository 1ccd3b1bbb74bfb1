"""``minusface audit``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal


def audit(
    checkpoint: str | None = None,
    data: str = "",
    out: str = "runs/audit",
    budget: Literal["small", "medium", "paper"] = "small",
    longer: float = 1.0,
    photos: int | None = None,
    peers: str = "pixelation,blur",
    variants: str = "none",
    beside: str = "",
    people: str | None = None,
    pairs: str | None = None,
    recognizer: str | None = None,
    lpips: str | None = None,
    attributes: str | None = None,
    attacks: str | None = None,
    publish: str | None = None,
    seed: int = 0,
    device: str = "auto",
    json: bool = False,
    list_peers: bool = False,
) -> None:
    """What leaks anyway: attackers of declared access against a protector, their controls, and a report.

    Writes OUT/report.html and OUT/report.json. A stopped audit goes on where it was: give it the same
    command. The report and OUT/pictures show faces of the data, and OUT/state holds attackers: they are as
    sensitive as the data.

    Args:
        checkpoint: a stage-1 or stage-2 checkpoint or run folder; by default the packaged weights.
        data: aligned faces, as folder:DIR (or just DIR), list:FILE, tfrecord:FILE, recordio:DIR,
            shards:PATTERN or synthetic:PEOPLExIMAGES (drawn faces, for a machine without any).
        out: folder of the report.
        budget: what every attacker gets; small ends in about a quarter of an hour on two cores, medium is for
            hours, paper is the paper's attacker and wants a GPU.
        longer: times the budget's steps, for every attacker that learns: does more learning find more?
        photos: how many the attacker has, in the place of the budget's number.
        peers: protections beside the one under audit: all, none, or names with commas (see --list-peers).
        variants: the protector under audit changed in one place: all, none, or of mask, no-subtraction,
            8-bit, rescaled, soft-clamp, signs, orthogonal, duplicate-2, duplicate-4 and tries-8, with commas.
        beside: other trained protectors, as NAME=CHECKPOINT with commas: another codec, another width.
        people: a file of the people whose photos the attacker has; folders only.
        pairs: test pairs of other people in --data; without, a quarter of the people is held out.
        recognizer: an independent recogniser of plain faces, a checkpoint or an .onnx file; without, a
            small one is trained on the attacker's photos, which makes a weak judge.
        lpips: a perceptual distance as an .onnx file of two images; without, LPIPS is left out.
        attributes: a file of lines key<tab>0|1 for photos of --data; without, drawn faces tell of glasses and
            of light.
        attacks: only these, with commas: viewing, recovery, linkage, averaging, templates, attributes,
            inversion.
        publish: a folder for a second report that may be shown: the same numbers, pictures of drawn faces and
            of scikit-image's astronaut.
        seed: every random draw comes from it.
        device: auto, cpu or cuda.
        json: print report.json in the place of words.
        list_peers: only print where each peer comes from, what was guessed, what it sends.
    """
    import json as jsons
    from pathlib import Path

    from minusface.audit.budget import budget_of
    from minusface.audit.run import HTML, Options, run_audit
    from minusface.audit.verdict import verdict
    from minusface.errors import MinusfaceError
    from minusface.memory import keep_freed_memory
    from minusface.peers.catalogue import PEERS, cards
    from minusface.peers.variants import VARIANTS
    from minusface.progress import noted_bar
    from minusface.weights import resolve

    if list_peers:
        print(cards())
        return
    if not data:
        raise MinusfaceError("--data is missing, expected a face folder or synthetic:PEOPLExIMAGES")
    # A step's draws are of a million times the seed and more, which torch takes up to 64 bits.
    if not 0 <= seed < 2**43:
        raise MinusfaceError(f"--seed {seed}: expected at least 0 and less than {2**43}")
    keep_freed_memory()
    where, precision = _machine(device)
    options = Options(
        checkpoint=resolve(checkpoint),
        data=data,
        out=Path(out),
        budget=budget_of(budget, longer, photos),
        peers=_names(peers, PEERS),
        variants=_names(variants, VARIANTS),
        beside=_names(beside, ()),
        people=people,
        pairs=pairs,
        recognizer=recognizer,
        lpips=lpips,
        attributes=attributes,
        attacks=attacks.split(",") if attacks else None,
        seed=seed,
        device=where,
        precision=precision,
        publish=None if publish is None else Path(publish),
    )
    with noted_bar("audit") as show:
        found = run_audit(options, show)
    if json:
        print(jsons.dumps(found.as_json(), indent=1))
        return
    words = {"yes": "protected", "no": "NOT protected", "partly": "in part", "unknown": "unknown"}
    for one in found.findings:
        if one.failed:
            print(f"CONTROL FAILED: {one.target}, {one.title}: {one.failed}")
    for said in verdict(found.findings, "minusface"):
        print(f"- [{words[said.kind]}] {said.text}")
    print(f"report: {options.out / HTML}")
    if options.publish is not None:
        print(f"to show: {options.publish / HTML}")


def _names(said: str, known: Iterable[str]) -> list[str]:
    """Names with commas; ``all`` and ``none`` are words for every known one and for no one."""
    if said == "all":
        return list(known)
    return [] if said == "none" else [name.strip() for name in said.split(",") if name.strip()]


def _machine(device: str) -> tuple[str, str]:
    """Device and precision."""
    import torch

    from minusface.devices import pick_precision
    from minusface.errors import MinusfaceError, choice_error

    if device not in ("auto", "cpu", "cuda"):
        raise choice_error("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise MinusfaceError("--device cuda: no CUDA device is there")
    use = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    return use, pick_precision("auto", use)
