"""Protected image to template: backbones, margin heads, distillation, the recogniser itself."""

from minusface.recognize.backbones import BACKBONES, build_backbone
from minusface.recognize.cohort import Cohort
from minusface.recognize.distill import DistillLoss, DistillLosses
from minusface.recognize.heads import (
    HEADS,
    AdaFace,
    ArcFace,
    CosFace,
    CurricularFace,
    MarginHead,
    build_head,
    head_loss,
)
from minusface.recognize.iresnet import IResNet
from minusface.recognize.mobilefacenet import MobileFaceNet, mobilefacenet
from minusface.recognize.recognizer import Recognizer, RecognizerKind
from minusface.recognize.standard import standardize
from minusface.recognize.teachers import OnnxTeacher, Teacher, TeacherFile, load_teacher
from minusface.recognize.unmix import Unmix
from minusface.recognize.warm import warm_start

__all__ = [
    "BACKBONES",
    "HEADS",
    "AdaFace",
    "ArcFace",
    "Cohort",
    "CosFace",
    "CurricularFace",
    "DistillLoss",
    "DistillLosses",
    "IResNet",
    "MarginHead",
    "MobileFaceNet",
    "OnnxTeacher",
    "Recognizer",
    "RecognizerKind",
    "Teacher",
    "TeacherFile",
    "Unmix",
    "build_backbone",
    "build_head",
    "head_loss",
    "load_teacher",
    "mobilefacenet",
    "standardize",
    "warm_start",
]
