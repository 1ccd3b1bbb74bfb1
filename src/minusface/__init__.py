"""Privacy-preserving face recognition: protect a face crop, recognise the protected image."""

__version__ = "0.1.0"
