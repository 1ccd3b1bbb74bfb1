"""What the page says of controls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minusface.audit.bench import write_strip
from minusface.audit.finding import Finding
from minusface.audit.html import report
from minusface.audit.plan import Audit
from tests.audit.conftest import finding

SEEN = {"ssim": 1.0, "contours": 0.9, "contours of others": 0.1}
RECOVERED = replace(
    finding("recovery", "unprotected", ssim=0.9, auc=0.9, cosine=0.9), control="must succeed"
)
GUESS = replace(
    finding("recovery", "blind guess", ssim=0.4, auc=0.5, cosine=0.0), control="blind guess"
)
UNASKED = replace(finding("viewing", "unprotected", **SEEN), control="must succeed")
ASKED = replace(UNASKED, measures={**SEEN, "faces found": 1.0})
FAILED = replace(RECOVERED, failed="too <weak>")
PASSED, NONE, RED = "All controls passed", "No control was run", "CONTROL FAILED"


@pytest.mark.parametrize(
    ("findings", "said"),
    [
        ([], NONE),
        ([finding("inversion", "x", "mean face", cosine=0.0), GUESS], NONE),
        # A control that nobody was there to decide has not passed.
        ([UNASKED], NONE),
        ([ASKED], f"{PASSED} (viewing): these attacks work where they must."),
        ([ASKED, RECOVERED, GUESS], f"{PASSED} (viewing, recovery)"),
        ([ASKED, FAILED], f"{RED}. What an attack below says"),
    ],
)
def test_controls_are_told_of_as_far_as_they_ran(
    findings: list[Finding], said: str, tmp_path: Path
) -> None:
    faces = write_strip(tmp_path, "faces", torch.zeros(1, 3, 16, 16))
    page = report(Audit(findings, [], faces, {}), "x", tmp_path)
    assert said in page
    head = page.split("<h2>")[0]
    assert [words in head for words in (PASSED, NONE, RED)].count(True) == 1
    assert "<weak>" not in page
