"""Protected images of a generator's output without that output: for training through them.

The generator ends in a 1x1 convolution, the shuffle and the decoder are linear: d(s(x - x')) is d(s(x)) less
one small map a pixel of what enters that convolution. Only the latter needs a gradient.

Legend: B batch, F = 3 * K channels, M channels before the last convolution, N pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from minusface.devices import without_autocast
from minusface.protect.codec import BlockCodec


class _ShuffledMap(torch.autograd.Function):
    """(B, 3, N): the last convolution, shuffled and weighed, an image at a time; no map is kept."""

    @staticmethod
    def forward(
        ctx: Any, hidden_bmn: Tensor, weight_fm: Tensor, order_bf: Tensor, pixel_kn: Tensor
    ) -> Tensor:
        ctx.save_for_backward(hidden_bmn, weight_fm, order_bf, pixel_kn)
        out_bcn = pixel_kn.new_empty(len(hidden_bmn), 3, hidden_bmn.shape[2])
        for hidden_mn, order_f, out_cn in zip(hidden_bmn, order_bf, out_bcn, strict=True):
            map_cmn = _map(weight_fm, order_f, pixel_kn)
            torch.sum(map_cmn.mul_(hidden_mn), 1, out=out_cn)
        return out_bcn

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden_bmn, weight_fm, order_bf, pixel_kn = ctx.saved_tensors
        grad_hidden, grad_weight = torch.empty_like(hidden_bmn), torch.zeros_like(weight_fm)
        for hidden_mn, order_f, grad_cn, into_mn in zip(
            hidden_bmn, order_bf, grads[0], grad_hidden, strict=True
        ):
            map_cmn = _map(weight_fm, order_f, pixel_kn)
            into_mn.copy_((map_cmn.mul_(grad_cn[:, None])).sum(0))
            wide_mn = hidden_mn.to(pixel_kn.dtype)
            by_colour = [(pixel_kn * grad_n) @ wide_mn.T for grad_n in grad_cn]
            grad_weight.index_add_(0, order_f, torch.cat(by_colour))
        return grad_hidden, grad_weight, None, None


def _map(weight_fm: Tensor, order_f: Tensor, pixel_kn: Tensor) -> Tensor:
    """(3, M, N) of one image."""
    picked_ckm = weight_fm[order_f].view(3, pixel_kn.shape[0], -1)
    return torch.matmul(picked_ckm.transpose(1, 2), pixel_kn)


def decode_difference(
    codec: BlockCodec, kept_bcn: Tensor, hidden: Tensor, last: nn.Conv2d, order: Tensor
) -> Tensor:
    """``d(s(x - x'))`` where x' is ``last(hidden)``, with gradients for ``hidden`` and ``last``.

    Args:
        codec: d.
        kept_bcn: x shuffled and weighed, (B, 3, H*W) as by ``codec.weigh``, without a gradient.
        hidden: (B, M, H, W), what enters the generator's last convolution.
        last: that convolution, 1x1 with a bias.
        order: (B, F) permutations; channel k is taken from channel ``order[b, k]``.

    Returns:
        X_p, (B, 3, H, W) in [0, 1], float32.
    """
    assert last.bias is not None
    pixel_kn = codec.pixel_weight_kn
    with without_autocast(hidden.device.type):
        weight_fm, bias_f = last.weight.float().flatten(1), last.bias.float()
        made_bcn = _ShuffledMap.apply(  # type: ignore[no-untyped-call]
            hidden.float().flatten(2), weight_fm, order, pixel_kn
        )
        shift_bcn = torch.matmul(bias_f[order].view(len(order), 3, -1), pixel_kn)
        return codec.to_pixels(kept_bcn - made_bcn - shift_bcn)
