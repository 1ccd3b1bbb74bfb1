"""``minusface data teach`` and ``minusface data mix``."""

from __future__ import annotations

import hashlib
import json as jsons
import shlex
from pathlib import Path

from minusface.errors import MinusfaceError

CONFIG = "configs/quickstart.yaml"


def teach(data: str, network: str, out: str, people: str | None = None, json: bool = False) -> int:
    """Embeddings of a face folder by another network: a teacher's file, for training without labels.

    Args:
        data: a folder with a folder a person.
        network: dlib's dlib_face_recognition_resnet_model_v1.dat, or an ONNX embedder (B, 3, N, N) to (B, D).
        out: the .npz.
        people: a file that lists the people to take; by default all.
        json: print the outcome as JSON.
    """
    from minusface.data import FolderDataset
    from minusface.data.source import folder_of
    from minusface.files import check_writable
    from minusface.memory import keep_freed_memory
    from minusface.progress import bar
    from minusface.train.teach import descriptors, open_network, write_teacher

    target = Path(out)
    if target.suffix.lower() != ".npz" or target.is_dir():
        raise MinusfaceError(f"--out {out}: expected a file that ends in .npz")
    check_writable(target)
    asked, dataset = open_network(network), FolderDataset(folder_of(data, ""), people)
    keep_freed_memory()
    with bar("embedding", len(dataset)) as advance:
        keys, plain, mirrored = descriptors(asked, dataset, advance)
    write_teacher(target, keys, plain, mirrored)
    if json:
        print(jsons.dumps({"out": out, "images": len(keys), "size": plain.shape[1]}))
        return 0
    print(f"{out}: embeddings of {len(keys):,} images; they are biometric data")
    print(f"next: {_train(folder_of(data, ''), out, people)}")
    return 0


def mix(
    data: str,
    network: str,
    out: str,
    count: int = 64000,
    people: str | None = None,
    teacher: str | None = None,
    seed: int = 0,
    alone: float = 0.3,
    json: bool = False,
) -> int:
    """Grow a face folder by faces that nobody has, which a network is asked about: more to learn from.

    Two people's photos are blended in smooth patches, stretched and bent. Writes OUT/faces, photos and
    mixtures, and OUT/teacher.npz with the embeddings of all. A stopped run goes on when it is called again.

    Args:
        data: a folder with a folder a person.
        network: dlib's dlib_face_recognition_resnet_model_v1.dat, or an ONNX embedder (B, 3, N, N) to (B, D).
        out: a new folder.
        count: how many mixtures.
        people: a file that lists the people to take, those to train on; by default all.
        teacher: a .npz of the same network with the photos' embeddings; by default the network is asked.
        seed: the same seed makes the same faces.
        alone: the part of the mixtures that are one person's photo, bent. 0 for a cohort (pack --cohort):
            then all are of two people, if some mostly of one.
        json: print the outcome as JSON.
    """
    from minusface.data import FolderDataset
    from minusface.data.source import folder_of
    from minusface.memory import keep_freed_memory
    from minusface.progress import bar
    from minusface.train.mixing import FACES, TEACHER, Mixing
    from minusface.train.teach import open_network

    if count < 1:
        raise MinusfaceError(f"--count {count}: expected 1 or more")
    if not 0 <= seed < 2**63:
        raise MinusfaceError(f"--seed {seed}: expected at least 0 and less than {2**63}")
    if not 0 <= alone <= 1:
        raise MinusfaceError(f"--alone {alone}: expected between 0 and 1")
    asked = open_network(network)
    known = hashlib.sha256(Path(network).read_bytes()).hexdigest()
    photos = FolderDataset(folder_of(data, ""), people)
    mixing = Mixing(photos, asked, Path(out), seed, known, alone)
    keep_freed_memory()
    with bar("mixing", len(mixing.photos) + count) as advance:
        done = mixing.run(count, teacher, advance)
    faces, file = f"{out}/{FACES}", f"{out}/{TEACHER}"
    if json:
        counts = {"photos": done.photos, "mixed": done.mixed, "resumed": done.resumed}
        print(jsons.dumps({**counts, "faces": faces, "teacher": file}))
        return 0
    already = f" (went on after {done.resumed:,})" if done.resumed else ""
    print(f"{done.photos:,} photos and {done.mixed:,} mixtures in {faces}{already}")
    # Its people are nobody's names.
    print(f"next: {_train(faces, file, None)} --head.weight 0")
    return 0


def _train(faces: str, teacher: str, people: str | None) -> str:
    said = ["minusface", "train", CONFIG, "--data.faces", faces, "--distill.teacher", teacher]
    return shlex.join([*said, "--data.people", people or "null", "--evaluation.pairs", "null"])
