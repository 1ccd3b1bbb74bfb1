"""Photo to aligned crop: reading, detection, alignment."""

from minusface.faces.align import (
    TEMPLATE_112,
    AlignedFace,
    align_photo,
    crops_from_files,
    is_crop,
    similarity,
    warp,
)
from minusface.faces.detector import (
    Detector,
    Face,
    MTCNNDetector,
    NoFaceError,
    choose,
    default_detector,
)
from minusface.faces.photos import decode_photo, list_photos, read_photo

__all__ = [
    "TEMPLATE_112",
    "AlignedFace",
    "Detector",
    "Face",
    "MTCNNDetector",
    "NoFaceError",
    "align_photo",
    "choose",
    "crops_from_files",
    "decode_photo",
    "default_detector",
    "is_crop",
    "list_photos",
    "read_photo",
    "similarity",
    "warp",
]
