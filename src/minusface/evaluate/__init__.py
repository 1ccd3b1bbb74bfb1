"""Is it the same person? Pairs, verification metrics, similarity of images, reports."""

from minusface.evaluate.embedding import Cache, PairEmbedder, embed_images
from minusface.evaluate.metrics import (
    auc,
    best_threshold,
    eer,
    kfold_accuracy,
    roc,
    tar_at_far,
    threshold_at_fmr,
)
from minusface.evaluate.pairs import Pair, PairList, even_folds, read_pairs
from minusface.evaluate.plots import write_det_plot, write_roc_plot
from minusface.evaluate.reader import folder_reader
from minusface.evaluate.report import markdown_table, to_json, write_json
from minusface.evaluate.similarity import psnr, ssim
from minusface.evaluate.verification import (
    DrawMetrics,
    VerificationResult,
    evaluate_pairs,
    score_pairs,
    verification_result,
)

__all__ = [
    "Cache",
    "DrawMetrics",
    "Pair",
    "PairEmbedder",
    "PairList",
    "VerificationResult",
    "auc",
    "best_threshold",
    "eer",
    "embed_images",
    "evaluate_pairs",
    "even_folds",
    "folder_reader",
    "kfold_accuracy",
    "markdown_table",
    "psnr",
    "read_pairs",
    "roc",
    "score_pairs",
    "ssim",
    "verification_result",
    "tar_at_far",
    "threshold_at_fmr",
    "to_json",
    "write_json",
    "write_det_plot",
    "write_roc_plot",
]
