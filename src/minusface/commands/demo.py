"""``minusface demo``: the whole journey in minutes, on one photo."""

from __future__ import annotations


def demo(
    photo: str | None = None,
    faces: str | None = None,
    out: str = "runs/demo",
    minutes: float = 7.5,
    seed: int = 0,
    train: bool = False,
    json: bool = False,
) -> None:
    """A photo becomes a protected image that is still recognised; writes OUT/report.html.

    Finds and aligns the face in a photo, protects it with the weights that the package brings, measures
    these on pairs of faces, and shows every picture on the way. With --train, or where the package brings
    none, it first trains three small models (unprotected, stage 1, stage 2) under one recipe and time
    budget, and compares them on people they have not seen. Running it again starts over; what the run
    before wrote is kept in OUT/previous.

    Args:
        photo: a photo with a face; by default scikit-image's astronaut.
        faces: a folder with a folder a person of aligned 112x112 crops to measure on, and to train on where
            anything is trained; by default ../shared/faces/lfw-112x112 where that is, else drawn faces
            ("synthetic" asks for these). Trainings distil from a file ``*teacher*.npz`` beside the folder;
            without one the names of the folders are the labels.
        out: where trainings, pictures and report go.
        minutes: time for the three trainings together, where anything is trained; the evaluation comes on
            top.
        seed: every random draw comes from it.
        train: train even where the package brings weights of its own.
        json: print the results as JSON instead of words.
    """
    import json as jsons
    import sys

    from rich.console import Console

    from minusface.demo import Options, run
    from minusface.demo.findings import sentences

    options = Options(photo, faces, out, minutes, seed, train)
    try:
        found = run(options, Console(stderr=True))
    except KeyboardInterrupt:
        print(f"stopped; trainings so far are in {out}, no report was written", file=sys.stderr)
        raise SystemExit(130) from None
    if json:
        print(jsons.dumps(found.as_json(), indent=1))
        return
    for sentence in sentences(found):
        print(f"- {sentence}")
    print(f"report: {found.report}")
    print(f"next:   {found.next_command}")
