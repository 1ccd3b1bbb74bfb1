"""Any dataset of faces as numbered (image, label, key) samples, and batches of them."""

from minusface.data.dataset import FaceDataset, Sample
from minusface.data.folder import FolderDataset, decode_image, read_people
from minusface.data.loader import Batch, Loader, sequential
from minusface.data.synthetic import SyntheticFaces, export_folder, synthetic_pairs

__all__ = [
    "Batch",
    "FaceDataset",
    "FolderDataset",
    "Loader",
    "Sample",
    "SyntheticFaces",
    "decode_image",
    "export_folder",
    "read_people",
    "sequential",
    "synthetic_pairs",
]
