"""A batch of drawn faces, for tests of single steps."""

from __future__ import annotations

import torch

from minusface.data import SyntheticFaces
from minusface.train.losses import Faces

SIZE, PEOPLE = 32, 8


def batch() -> Faces:
    faces = SyntheticFaces(PEOPLE, 1, seed=0, size=SIZE)
    images = torch.stack([torch.from_numpy(faces[i].image).permute(2, 0, 1) for i in range(6)])
    return Faces(images / 127.5 - 1, torch.arange(6), ["x"] * 6, torch.zeros(6, dtype=torch.bool))
