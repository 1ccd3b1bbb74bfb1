"""Where ``minusface evaluate`` writes what it measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from minusface.evaluate import VerificationResult
    from minusface.evaluate.benchmark import Benchmark
    from minusface.evaluate.rates import RatesResult


class Outputs(NamedTuple):
    """Where results go, besides the screen."""

    json: str | None
    markdown: str | None
    csv: str | None
    roc: str | None
    det: str | None
    worst: str | None


def check_outputs(out: Outputs, read: list[str]) -> None:
    """Refuse what would only fail after a long evaluation, and outputs in the place of what is read.

    Raises:
        MinusfaceError: the output, and why.
    """
    from minusface.errors import MinusfaceError
    from minusface.evaluate.plots import check_picture
    from minusface.files import check_writable

    for path in (out.roc, out.det):
        if path is not None:
            check_picture(path)
    if out.worst is not None and Path(out.worst).suffix.lower() not in (".png", ".jpg"):
        raise MinusfaceError(f"{out.worst}: pairs are drawn into a .png or .jpg file")
    taken = {Path(path).resolve(): "is read" for path in read}
    folders = [folder for folder in taken if folder.is_dir()]
    for flag, path in out._asdict().items():
        if path is None or (flag == "json" and path == "-"):
            continue
        check_writable(Path(path))
        other = taken.setdefault(Path(path).resolve(), f"is written by --{flag}")
        if other != f"is written by --{flag}":
            raise MinusfaceError(f"--{flag} {path}: {other} as well, expected another file")
        _check_among(flag, Path(path), folders)


def _check_among(flag: str, path: Path, folders: list[Path]) -> None:
    """Refuse to write over a face or a benchmark in a folder that is read; results may lie beside them.

    Raises:
        MinusfaceError: the output, and the folder.
    """
    from minusface.errors import MinusfaceError

    whole = path.resolve()
    for folder in folders:
        beside = whole.parent == folder and whole.suffix != ".bin"
        if folder in whole.parents and not beside and whole.exists():
            raise MinusfaceError(
                f"--{flag} {path}: lies in {folder}, which is read; expected a new file"
            )


def write_outputs(
    results: list[VerificationResult],
    groups: list[VerificationResult],
    searches: list[RatesResult],
    benchmarks: list[Benchmark],
    out: Outputs,
) -> None:
    """Print the tables and write the files that were asked for."""
    from minusface.evaluate import markdown_table, to_json, write_det_plot, write_roc_plot
    from minusface.evaluate.rates import rates_table
    from minusface.evaluate.report import csv_table
    from minusface.files import write_atomically

    shown = [*results, *groups]
    tables = [markdown_table(shown)] if shown else []
    text = "\n".join([*tables, *([rates_table(searches)] if searches else [])])
    said = to_json([*shown, *searches])
    # First: a file that cannot be written does not cost what was measured.
    print(said if out.json == "-" else text, end="")
    if out.json is not None and out.json != "-":
        write_atomically(Path(out.json), said.encode())
    if out.markdown is not None:
        write_atomically(Path(out.markdown), text.encode("utf-8", "surrogateescape"))
    if out.csv is not None:
        write_atomically(
            Path(out.csv), csv_table(shown, searches).encode("utf-8", "surrogateescape")
        )
    if out.roc is not None:
        write_roc_plot([*results, *searches], out.roc)
    if out.det is not None:
        write_det_plot([*results, *searches], out.det)
    if out.worst is not None and results:
        from minusface.evaluate.worst import write_worst

        write_worst(results[-1], benchmarks[-1], out.worst)
