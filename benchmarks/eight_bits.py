"""What 8 bits and the clamp cost in recognition, and how alike X and X_p are to the eye.

    python benchmarks/eight_bits.py CHECKPOINT --pairs FILE --faces DIR [--draws 2] [--json FILE]

The same recogniser on X_p as it leaves the decoder (unclamped), held in [0, 1], and rounded as a PNG
does; SSIM and PSNR between each crop and its X_p, means over all images of the pairs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from minusface.evaluate import evaluate_pairs, folder_reader, psnr, read_pairs, ssim
from minusface.evaluate.embedders import ProtectedEmbedder
from minusface.memory import keep_freed_memory
from minusface.protect import Protector, permutation_of_key
from minusface.recognize import Recognizer


class Unclamped(ProtectedEmbedder):
    """X_p beyond [0, 1] where it goes there; one image a crop."""

    def view(self, base: Tensor, keys: Sequence[str], draw: int) -> Tensor:
        names, channels = [f"{key}#0" for key in keys], self.protector.codec.channels
        order = permutation_of_key(names, channels, self.seed, draw)
        return self.protector.codec.decode(base, order, clamp=False)


def likeness(protector: Protector, read, keys: Sequence[str]) -> dict[str, float]:  # type: ignore[no-untyped-def]
    """Mean SSIM and PSNR of X_p to X, and the part of values that the clamp holds."""
    rows = []
    for start in range(0, len(keys), 32):
        names = keys[start : start + 32]
        bytes_ = torch.stack([torch.from_numpy(read(key)) for key in names]).permute(0, 3, 1, 2)
        crops = bytes_.float() / 127.5 - 1
        order = permutation_of_key([f"{key}#0" for key in names], protector.codec.channels, 0)
        with torch.inference_mode():
            protected = protector(crops, order)
        held = ((protected <= 0) | (protected >= 1)).float().mean((1, 2, 3))
        plain = (crops + 1) / 2
        rows.append(torch.stack([ssim(plain, protected), psnr(plain, protected), held], 1))
    means = torch.cat(rows).mean(0).tolist()
    return dict(zip(("ssim", "psnr", "clamped"), means, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoint")
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--faces", required=True)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    protector, recognizer = Protector.load(options.checkpoint), Recognizer.load(options.checkpoint)
    pairs, read = read_pairs(options.pairs, options.faces), folder_reader(options.faces)
    found: dict[str, object] = {"likeness": likeness(protector, read, list(pairs.keys))}
    for name, embedder in {
        "unclamped": Unclamped(recognizer, protector),
        "clamped": ProtectedEmbedder(recognizer, protector),
        "8 bits": ProtectedEmbedder(recognizer, protector, eight_bits=True),
    }.items():
        result = evaluate_pairs(embedder, read, pairs, draws=options.draws, name=name)
        found[name] = {"accuracy": result.accuracy, "auc": result.auc, "eer": result.eer}
        print(
            f"{name:<10} accuracy {100 * result.accuracy:.2f}  AUC {100 * result.auc:.2f}",
            flush=True,
        )
    print(found["likeness"])
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
