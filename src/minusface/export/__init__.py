"""A checkpoint as two ONNX models: what protects on a client, what recognises on a server."""

from minusface.export.check import OnnxPair, check_parity, measure
from minusface.export.graph import ClientGraph, RecognizerGraph
from minusface.export.write import OPSET, VARIANTS, export, replacing, write_card

__all__ = [
    "OPSET",
    "VARIANTS",
    "ClientGraph",
    "OnnxPair",
    "RecognizerGraph",
    "check_parity",
    "export",
    "measure",
    "replacing",
    "write_card",
]
