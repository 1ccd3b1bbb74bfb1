"""Any dataset of faces as numbered (image, label, key) samples, and batches of them."""

from minusface.data.dataset import FaceDataset, Sample
from minusface.data.folder import FolderDataset, decode_image, read_people
from minusface.data.loader import Batch, Loader, sequential

__all__ = [
    "Batch",
    "FaceDataset",
    "FolderDataset",
    "Loader",
    "Sample",
    "decode_image",
    "read_people",
    "sequential",
]
