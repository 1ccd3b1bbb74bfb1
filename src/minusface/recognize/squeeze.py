"""Making a trained ir_lite smaller, without training: its last linear layer as two thin ones.

The layer reads every pixel of the last map, K channels each. Its weights, as a matrix of (embedding, pixel)
by channel, are close to one of lower rank: a 1x1 convolution to R channels, then a linear layer of those.
The truncated singular value decomposition is the best such pair (Eckart and Young 1936).
Legend: D embedding, K channels, P pixels, R channels left.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.recognize.iresnet import SQUEEZED

LINEAR, NORM, SQUEEZE = "output_layer.3.weight", "output_layer.0.weight", "squeeze.weight"


def squeezed(tensors: Mapping[str, Tensor], channels: int = SQUEEZED) -> dict[str, Tensor]:
    """The state dict of an ``ir_lite`` as that of an ``ir_lite_96``.

    Args:
        tensors: of the backbone, or of a recogniser (names then begin with ``backbone.``).
        channels: R.

    Returns:
        All tensors, the last linear layer's replaced and the convolution's added.

    Raises:
        MinusfaceError: there is no such layer, or it is squeezed already.
    """
    prefix = next((name[: -len(LINEAR)] for name in tensors if name.endswith(LINEAR)), None)
    if prefix is None or prefix + SQUEEZE in tensors:
        raise MinusfaceError("squeeze: expected the weights of an ir_lite")
    linear_dn, scale_k = tensors[prefix + LINEAR].double(), tensors[prefix + NORM].double()
    count, size = len(scale_k), len(linear_dn)
    if not 0 < channels < count:
        raise MinusfaceError(f"squeeze: {channels} channels, expected 1 to {count - 1}")
    rows_mk = linear_dn.view(size, count, -1).transpose(1, 2).reshape(-1, count)
    # Channels count by how far the batch norm before the layer lets them swing.
    swing_k = scale_k.abs().clamp_min(1e-6)
    # Small maps have fewer rows than channels; rows of zeros change nothing.
    spare = rows_mk.new_zeros(max(0, channels - len(rows_mk)), count)
    left, values, right = torch.linalg.svd(
        torch.cat([rows_mk * swing_k, spare]), full_matrices=False
    )
    left = left[: len(rows_mk)]
    # Half of each singular value on either side keeps both layers in half precision's range.
    root_r = values[:channels].sqrt()
    thin_rk = right[:channels] * root_r[:, None] / swing_k
    wide_dpr = (left[:, :channels] * root_r).view(size, -1, channels)
    dtype = tensors[prefix + LINEAR].dtype
    return {
        **tensors,
        prefix + LINEAR: wide_dpr.transpose(1, 2).reshape(size, -1).to(dtype).contiguous(),
        prefix + SQUEEZE: thin_rk[:, :, None, None].to(dtype).contiguous(),
    }
