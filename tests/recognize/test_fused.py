"""What stands in for plainer computations inside the recogniser gives their results and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from minusface.config import RecognizerConfig
from minusface.recognize import Recognizer
from minusface.recognize.mobilefacenet import Depthwise
from minusface.recognize.prelu import PReLU, channel_dot


@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (2, 5)])
def test_prelu_is_torchs(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.view(-1)[0] = 0.0
    ours, torchs = PReLU(5).double(), nn.PReLU(5).double()
    with torch.no_grad():
        ours.weight.copy_(torch.linspace(-0.5, 0.5, 5))
        torchs.weight.copy_(ours.weight)
    results = []
    for layer in (ours, torchs):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        (y * torch.arange(y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
        results.append((y.detach(), leaf.grad, layer.weight.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    assert ours.state_dict().keys() == torchs.state_dict().keys()


@pytest.mark.parametrize("backbone", ["ir_lite", "mobilefacenet", "ir_18"])
def test_forward_difference_is_forward_of_the_difference(backbone: str) -> None:
    torch.manual_seed(0)
    recognizer = Recognizer(RecognizerConfig(backbone, 8), 12, 32, "features").eval()
    project = nn.Conv2d(5, 12, 1)
    features, hidden = torch.randn(3, 12, 32, 32), torch.randn(3, 5, 32, 32)
    results = []
    for fused in (True, False):
        recognizer.zero_grad()
        project.zero_grad()
        assert project.bias is not None
        if fused:
            response = recognizer.first(features)
            out = recognizer.forward_difference(response, hidden, project.weight, project.bias)
        else:
            out = recognizer(features - project(hidden))
        out.square().sum().backward()
        first = recognizer.backbone.first
        results.append((out.detach(), first.weight.grad.clone(), project.weight.grad.clone()))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_channel_dot_is_the_sum_of_products(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    random = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(3, 40, 5, 7, generator=random).to(dtype, memory_format=layout) for _ in "ab"
    )
    wide = torch.promote_types(dtype, torch.float32)
    found = channel_dot(a, b, torch.zeros(40, dtype=wide))
    torch.testing.assert_close(found, (a.to(wide) * b.to(wide)).sum((0, 2, 3)))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [6, 3])
def test_depthwise_is_torchs(stride: int, side: int) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(5, 16, side, side, generator=random)
    # Values that bfloat16 holds: what is left is the rounding of results.
    x = x.bfloat16().float().contiguous(memory_format=torch.channels_last)
    ours = Depthwise(16, 16, 3, stride, 1, groups=16, bias=False)
    plain = nn.Conv2d(16, 16, 3, stride, 1, groups=16, bias=False)
    with torch.no_grad():
        ours.weight.copy_(torch.randn(ours.weight.shape, generator=random).bfloat16())
        plain.weight.copy_(ours.weight)
    for narrow in (False, True):
        results = []
        for layer, dtype in ((ours, torch.bfloat16 if narrow else torch.float32), (plain, None)):
            layer.zero_grad()
            leaf = x.clone().to(dtype or torch.float32).requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=narrow and dtype is not None):
                y = layer(leaf)
            assert y.dtype == leaf.dtype
            y.float().square().sum().backward()
            assert layer.weight.grad is not None
            assert leaf.grad is not None
            results.append((y.detach().float(), leaf.grad.float(), layer.weight.grad.clone()))
        for a, b in zip(*results, strict=True):
            worst = 0.02 if narrow else 1e-5
            torch.testing.assert_close(a, b, rtol=0, atol=worst * float(b.abs().max()))
