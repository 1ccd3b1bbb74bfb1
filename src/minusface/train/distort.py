"""Distortions a photo may have met before it came here: tilt, light, blur, JPEG, things in the way.

For recognisers that are distilled: the teacher's embedding stays that of the clean crop. Every draw comes
from a CPU generator, so a step's distortions repeat under its seed.

Legend: B batch, S the samples chosen for one distortion, C=3, H, W pixels.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface.config import AugmentConfig
from minusface.devices import sent
from minusface.share import Share

# The largest of each distortion; a draw is uniform up to it.
TILT_DEGREES = 12.0
ZOOM = 0.12
BRIGHTNESS = 0.3
CONTRAST = 0.4
SATURATION = 0.6
BLUR_SIGMA = (0.4, 2.0)
BLUR_RADIUS = 5
JPEG_QUALITY = (15, 80)
PATCH_SIDE = (0.15, 0.45)
# Rec. 601 luma, what "grey" means in most cameras and libraries.
LUMA = (0.299, 0.587, 0.114)


def distort(
    crops: Tensor, random: torch.Generator, settings: AugmentConfig, share: Share | None = None
) -> Tensor:
    """Each distortion, to the part of the batch that its chance picks.

    Args:
        crops: (B, 3, H, W) in [-1, 1], RGB. Not changed.
        random: a CPU generator.
        settings: the chance of each distortion; at 0 nothing is drawn for it.
        share: which samples of the whole batch these are; by default all.

    Returns:
        (B, 3, H, W) in [-1, 1].
    """
    steps = (
        (settings.jitter, jitter),
        (settings.colour, recolour),
        (settings.grey, to_grey),
        (settings.occlusion, occlude),
        (settings.blur, blur),
        (settings.jpeg, jpeg),
    )
    share = Share.whole(len(crops)) if share is None else share
    for chance, step in steps:
        if chance <= 0:
            continue
        picked = torch.rand(share.total, generator=random) < chance
        here = torch.nonzero(share.of(picked))[:, 0]
        # Among the picked of the whole batch, these.
        places = (picked.cumsum(0) - 1)[share.rows[here]]
        chosen = Share(places, int(picked.sum()))
        if chosen.total:
            here = sent(here, crops.device)
            crops = crops.index_copy(0, here, step(crops[here], random, chosen))
    return crops


def _uniform(share: Share, low: float, high: float, random: torch.Generator) -> Tensor:
    return share.of(torch.rand(share.total, generator=random)) * (high - low) + low


def jitter(crops: Tensor, random: torch.Generator, share: Share | None = None) -> Tensor:
    """Turned about the centre by up to TILT_DEGREES and scaled by up to ZOOM; the border is repeated."""
    share = share or Share.whole(len(crops))
    angle = _uniform(share, -1, 1, random) * math.radians(TILT_DEGREES)
    zoom = 1 + _uniform(share, -1, 1, random) * ZOOM
    if len(crops) == 0:
        return crops
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    zero = torch.zeros(len(crops))
    turn = torch.stack(
        [torch.stack([cos, -sin, zero], dim=1), torch.stack([sin, cos, zero], dim=1)], dim=1
    )
    grid = nnf.affine_grid(turn.to(crops), list(crops.shape), align_corners=False)
    return nnf.grid_sample(crops, grid, padding_mode="border", align_corners=False)


def recolour(crops: Tensor, random: torch.Generator, share: Share | None = None) -> Tensor:
    """Other brightness, contrast and saturation, and a slight cast of colour."""
    share = share or Share.whole(len(crops))
    luma = _luma(crops)
    saturation = 1 + _column(_uniform(share, -1, 1, random) * SATURATION, crops)
    contrast = 1 + _column(_uniform(share, -1, 1, random) * CONTRAST, crops)
    brightness = _column(_uniform(share, -1, 1, random) * BRIGHTNESS, crops)
    cast = share.of(torch.rand(share.total, 3, 1, 1, generator=random) - 0.5)
    cast = cast.to(crops) * BRIGHTNESS
    mean = crops.mean((1, 2, 3), keepdim=True)
    coloured = luma + (crops - luma) * saturation
    return ((coloured - mean) * contrast + mean + brightness + cast).clamp(-1, 1)


def to_grey(crops: Tensor, random: torch.Generator, share: Share | None = None) -> Tensor:
    """The luma in all three colours."""
    return _luma(crops).expand_as(crops)


def occlude(crops: Tensor, random: torch.Generator, share: Share | None = None) -> Tensor:
    """A rectangle of one colour, or of noise, somewhere over each face."""
    share = share or Share.whole(len(crops))
    crops = crops.clone()
    count, (height, width) = share.total, crops.shape[2:]
    mine = {number: row for row, number in enumerate(share.rows.tolist())}
    sides = torch.rand(count, 2, generator=random) * (PATCH_SIDE[1] - PATCH_SIDE[0]) + PATCH_SIDE[0]
    places = torch.rand(count, 2, generator=random)
    colours = torch.rand(count, 3, 1, 1, generator=random) * 2 - 1
    noisy = torch.rand(count, generator=random) < 0.5
    for i in range(count):
        tall, wide = int(sides[i, 0] * height), int(sides[i, 1] * width)
        top, left = int(places[i, 0] * (height - tall)), int(places[i, 1] * (width - wide))
        patch = colours[i].expand(3, tall, wide)
        if noisy[i]:
            patch = (patch + torch.randn(3, tall, wide, generator=random) * 0.5).clamp(-1, 1)
        if i in mine:
            crops[mine[i], :, top : top + tall, left : left + wide] = patch.to(crops)
    return crops


def blur(crops: Tensor, random: torch.Generator, share: Share | None = None) -> Tensor:
    """Each crop under a Gaussian of its own width, in pixels between the ends of BLUR_SIGMA."""
    share = share or Share.whole(len(crops))
    count, colours, height, width = crops.shape
    sigma = _uniform(share, *BLUR_SIGMA, random)
    if count == 0:
        return crops
    taps = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1)
    kernel = torch.exp(-0.5 * (taps / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(colours, 0).to(crops)
    flat = crops.reshape(1, count * colours, height, width)
    flat = nnf.pad(flat, (BLUR_RADIUS,) * 4, mode="replicate")
    flat = nnf.conv2d(flat, kernel[:, None, None, :], groups=count * colours)
    flat = nnf.conv2d(flat, kernel[:, None, :, None], groups=count * colours)
    return flat.reshape(crops.shape)


def jpeg(crops: Tensor, random: torch.Generator, share: Share | None = None) -> Tensor:
    """Written as JPEG and read again, at a quality between the ends of JPEG_QUALITY."""
    share = share or Share.whole(len(crops))
    low, high = JPEG_QUALITY
    qualities = torch.randint(low, high + 1, (share.total,), generator=random)
    if len(crops) == 0:
        return crops
    images = ((crops + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    made = []
    for image, quality in zip(images.cpu().numpy(), share.of(qualities).tolist(), strict=True):
        # Colour order matters to JPEG (luma is kept finer), and OpenCV takes BGR.
        _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        read = cv2.imdecode(data, cv2.IMREAD_COLOR)
        made.append(np.asarray(read)[..., ::-1])
    back = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)
    return (back.float() / 127.5 - 1).to(crops)


def _luma(crops: Tensor) -> Tensor:
    weights = torch.tensor(LUMA).to(crops)[None, :, None, None]
    return (crops * weights).sum(1, keepdim=True)


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(S,) to (S, 1, 1, 1), beside ``like``."""
    return values.to(like)[:, None, None, None]
