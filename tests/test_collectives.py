"""Words that processes tell one another."""

from __future__ import annotations

import os

import torch

from minusface.collectives import gather_words


def test_names_of_files_may_be_any_bytes() -> None:
    words = ["Jörg/1.png", os.fsdecode(b"J\xf6rg/1.png"), "a b"]
    assert gather_words(words, torch.device("cpu")) == words
    assert gather_words([], torch.device("cpu")) == []
