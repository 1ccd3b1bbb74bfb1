"""Who may judge whether a rebuilt face is the person."""

from __future__ import annotations

import pytest
import torch

from minusface.audit.ruler import load_ruler
from minusface.errors import MinusfaceError


def test_packaged_weights_are_found_by_name_and_are_no_judge() -> None:
    with pytest.raises(MinusfaceError, match="default: recognises protected images"):
        load_ruler("default", torch.device("cpu"))
