"""Arrays of pixels, named apart from torch: detecting and aligning faces do without it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
