"""Is it the same person? Pair lists, metrics, verification, reports, image similarity."""

from minusface.evaluate.pairs import Pair, PairList, even_folds, read_pairs
from minusface.evaluate.report import markdown_table, to_json, write_roc_plot
from minusface.evaluate.similarity import psnr, ssim
from minusface.evaluate.verification import (
    PairEmbedder,
    VerificationResult,
    evaluate_pairs,
    summarize,
)

__all__ = [
    "Pair",
    "PairEmbedder",
    "PairList",
    "VerificationResult",
    "evaluate_pairs",
    "even_folds",
    "markdown_table",
    "psnr",
    "read_pairs",
    "ssim",
    "summarize",
    "to_json",
    "write_roc_plot",
]
