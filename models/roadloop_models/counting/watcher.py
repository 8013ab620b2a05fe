"""From the frames of one camera to a model's input tensors, whichever kind of model counts."""

from roadloop_models.counting.background import Background
from roadloop_models.counting.foreground import ForegroundPair, Scene
from roadloop_models.detect.detections import FloatArray
from roadloop_models.detect.letterbox import ImageArray, ImageLetterbox


class Watcher:
    """Keeps the background of one camera; give it every frame. Another version of a model goes on with it."""

    def __init__(self) -> None:
        self._background = Background()
        self._shape: tuple[int, ...] = ()

    def look(self, frame: ImageArray, preprocess: ForegroundPair | ImageLetterbox) -> tuple[FloatArray, ...]:
        """uint8 RGB [h, w, 3] -> what the model takes. A frame of another size is of another scene.

        Raises ModelInputError where the frame is no image.
        """
        if not isinstance(preprocess, ForegroundPair):
            return preprocess(frame)
        fitted = preprocess.fit(frame)
        if frame.shape != self._shape:
            self._background, self._shape = Background(), frame.shape
        return preprocess(Scene(fitted, self._background.update(fitted)))
