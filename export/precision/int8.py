"""A finished fp32 graph in int8: ranges from calibration images, per-channel Q/DQ around the layers that multiply.

Owns: calibration, the two forms of Q/DQ (TensorRT's, and that of processors), how far each layer alone moves the logits.
Does not own: whether the result may ship (gate.py), the choice among results (lower.py).
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from export.graph.regions import MULTIPLYING, layers, tidied
from runtimes.backends.ort import load_runtime

if TYPE_CHECKING:
    import onnx

Method = Literal["minmax", "entropy", "percentile"]
METHODS: tuple[Method, ...] = ("minmax", "entropy", "percentile")
Feeds = Sequence[dict[str, NDArray[Any]]]
Form = Literal["symmetric", "unsigned"]
# Without a quantised bias, which TensorRT refuses; runtimes that want one make it. Weights are stored as int8. The classifier's answer
# stays in fp32: logits of 8 bits would tie.
COMMON = {"WeightSymmetric": True, "QuantizeBias": False, "AddQDQPairToWeight": False, "OpTypesToExcludeOutputQuantization": ["Gemm"]}
# TensorRT takes no zero points and wants a pair for every reader. ONNX Runtime fuses an activation only if it is unsigned and its range
# starts at zero behind a ReLU: with symmetric pairs half of a ResNet stays in float there.
FORMS: dict[Form, dict[str, bool]] = {"symmetric": {"ActivationSymmetric": True, "DedicatedQDQPair": True},
                                      "unsigned": {"ActivationSymmetric": False, "DedicatedQDQPair": False}}
# Weights of 7 bits: x86 processors without VNNI add products of 8 bits up in 16 and saturate, which costs far more than the bit.
REDUCED = True


def ranges(data: bytes, feeds: Feeds, method: Method, form: Form = "unsigned") -> Any:
    """The range of every value around a layer that multiplies, over images as the graph takes them ({input: (1, ...)})."""
    load_runtime()
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    methods = {"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy, "percentile": CalibrationMethod.Percentile}
    with tempfile.TemporaryDirectory(prefix="rd-calibrate-") as folder, _quiet():
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        calibrator = create_calibrator(path, list(MULTIPLYING), augmented_model_path=str(Path(folder) / "augmented.onnx"),
                                       calibrate_method=methods[method], extra_options={"symmetric": form == "symmetric"})
        calibrator.collect_data(_Reader(feeds))
        return calibrator.compute_data()


def quantised(data: bytes, tensor_ranges: Any, keep: Sequence[str] = (), only: Sequence[str] = (), form: Form = "unsigned") -> bytes:
    """The graph of an fp32 ONNX file with its multiplying layers in int8, all but `keep`, or just `only` (names of nodes)."""
    load_runtime()
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    model = onnx.load_from_string(data)
    names = only or [name for name in layers(model) if name not in set(keep)]
    if not names:
        return data
    plain = {tensor.name for tensor in model.graph.initializer}
    with _quiet():
        maker = QDQQuantizer(onnx.shape_inference.infer_shapes(model), True, REDUCED, QuantType.QInt8,
                             QuantType.QInt8 if form == "symmetric" else QuantType.QUInt8, tensor_ranges, list(names), [],
                             list(MULTIPLYING), {**COMMON, **FORMS[form]})
        maker.quantize_model()
    changed: onnx.ModelProto = maker.model.model
    read = {name for node in changed.graph.node for name in node.input}
    for tensor in [tensor for tensor in changed.graph.initializer if tensor.name in plain and tensor.name not in read]:
        changed.graph.initializer.remove(tensor)  # only its int8 copy is read
    return tidied(changed)


def sensitivities(data: bytes, tensor_ranges: Any, feeds: Feeds, answer: Callable[[bytes, Feeds], NDArray[Any]],
                  form: Form = "unsigned", progress: Callable[[int, int], None] | None = None) -> dict[str, float]:
    """How far each layer moves the logits when it alone is int8: mean squared change over images, by name of its node."""
    import onnx

    names, reference = layers(onnx.load_from_string(data)), answer(data, feeds)
    moved = {}
    for index, name in enumerate(names):
        moved[name] = float(np.square(answer(quantised(data, tensor_ranges, only=[name], form=form), feeds) - reference).mean())
        if progress is not None:
            progress(index + 1, len(names))
    return moved


class _Reader:
    """Feeds one by one, as the calibrator asks for them."""

    def __init__(self, feeds: Feeds) -> None:
        self._waiting = iter(feeds)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._waiting, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser prints and warns through the root logger whatever it is given."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
