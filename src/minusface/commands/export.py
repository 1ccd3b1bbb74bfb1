"""``minusface export``."""

from __future__ import annotations

import shlex


def export(
    checkpoint: str,
    out: str,
    variants: str = "float32",
    opset: int = 18,
    pairs: str | None = None,
    faces: str | None = None,
    json: bool = False,
) -> int:
    """Turn a stage-2 checkpoint into client.onnx, recognizer.onnx and a card.

    client.onnx takes crops (B, N, N, 3) uint8, RGB, and permutations (B, n, F) int64, and gives protected
    images (B, 3n, N, N) in [0, 1]; recognizer.onnx takes these and gives templates (B, D) of unit length.
    Both are compared with PyTorch at batches 1 and 3. With pairs and faces, the card also
    tells what each variant's accuracy is, and the thresholds that `minusface serve` needs.

    Args:
        checkpoint: a stage-2 checkpoint or run folder.
        out: folder for the models and card.json.
        variants: float32 is always written; float16 and int8 beside it where named, parted by commas.
        opset: of ONNX.
        pairs: LFW's pairs.txt or pairsDevTest.txt, or lines "image image 0|1".
        faces: the face folder that the pairs name.
        json: print the card as JSON.
    """
    import dataclasses
    import json as jsons

    from minusface.errors import MinusfaceError
    from minusface.evaluate import folder_reader, read_pairs
    from minusface.export import VARIANTS, check_parity, measure, write_card
    from minusface.export import export as run
    from minusface.progress import bar
    from minusface.weights import resolve

    if (pairs is None) != (faces is None):
        raise MinusfaceError("--pairs and --faces go together: a list and the face folder it names")
    path = resolve(checkpoint)
    card = run(path, out, [part for part in variants.split(",") if part], opset)
    written = [v for v in VARIANTS if v in card.files["client"]]
    card = dataclasses.replace(card, parity=check_parity(path, out, written))
    if pairs is not None and faces is not None:
        with bar("measuring", len(written) + 1) as advance:
            found = measure(
                path,
                out,
                written,
                read_pairs(pairs, faces),
                folder_reader(faces, card.size),
                advance,
            )
        card = dataclasses.replace(card, accuracy=found[0], thresholds=found[1])
    write_card(card, out)
    if json:
        print(jsons.dumps(dataclasses.asdict(card), indent=1))
        return 0
    for half, files in card.files.items():
        for variant, entry in files.items():
            worst = max(card.parity[half][variant].values())
            print(f"{entry['name']:<26} {entry['bytes'] / 2**20:5.1f} MiB, off by {worst:.1e}")
    for name, row in card.accuracy.get("models", {}).items():
        print(f"{name:<9} accuracy {100 * row['accuracy']:.2f}  AUC {100 * row['auc']:.2f}")
    for name, threshold in card.thresholds.items():
        missed = 100 * card.accuracy["fnmr"][name]
        print(f"threshold {name} {threshold:.4f}: {missed:.1f} % of genuine pairs are missed")
    print(f"next: minusface serve {shlex.quote(out)}")
    return 0
