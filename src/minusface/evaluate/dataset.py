"""Images of a face folder embedded as in use: one image, 8 bits, no mirror image.

Legend: K images, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from minusface.data import FolderDataset
from minusface.evaluate.embedding import embed_images
from minusface.evaluate.models import Model
from minusface.progress import bar_of


def embed_dataset(
    model: Model, dataset: FolderDataset, taken: Sequence[int], batch_size: int = 32
) -> Tensor:
    """Embeddings (K, D), unit rows, of some of a dataset's images.

    Args:
        model: made for 8 bits.
        dataset: the folder.
        taken: numbers of K images.
        batch_size: images at once.

    Raises:
        MinusfaceError: an image cannot be read.
    """
    images = {dataset.key(index): index for index in taken}
    with bar_of("embedding", len(taken)) as progress:
        rows = embed_images(
            model.embedder,
            lambda key: dataset[images[key]].image,
            list(images),
            flip=False,
            batch_size=batch_size,
            progress=progress,
        )
    return rows[0]
