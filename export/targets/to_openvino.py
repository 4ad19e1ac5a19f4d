"""A finished ONNX graph to OpenVINO's IR, weights as they are in the graph; and NNCF's own int8 as another way to it.

Owns: the call of OpenVINO's ONNX reader and of its writer (never its silent fp16 compression), NNCF's settings. Does not own:
compiling for a device (runtimes/backends/ov.py), whether the result may ship (gate.py).
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.graph.regions import is_temperature, of_network
from runtimes.backends.ov import load_runtime
from runtimes.errors import MISSING, UserError

IR = "openvino_model.xml"


def to_ir(data: bytes, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the IR of an ONNX file's bytes: `path` (.xml) and its .bin; the graph's rd. facts go into its rt_info."""
    runtime = load_runtime()
    try:
        model = runtime.Core().read_model(model=data)
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"OpenVINO cannot read the exported graph: {reason}; try another --opset or --student") from None
    save_ir(model, path, metadata)


def save_ir(model: Any, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a model of OpenVINO as IR, without compressing weights to fp16, which is its default."""
    for key in sorted(metadata):
        model.set_rt_info(metadata[key], ["rd", key.removeprefix("rd.")])
    try:
        load_runtime().save_model(model, str(path), compress_to_fp16=False)
    except RuntimeError as error:  # its stream says only that a write failed
        reason = (str(error).strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"OpenVINO could not write {path.name} in {path.parent.parent} ({reason}); the disk is most likely full: make "
                        "room there, and run the same command again") from None


def with_temperatures(model: Any, temperatures: Sequence[float]) -> None:
    """Put other temperatures into the tail of a model of OpenVINO, in place; ValueError where it has none of that shape."""
    from openvino import opset13

    constants = [node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"
                 and is_temperature(node.get_friendly_name())]
    if len(constants) != 1:
        raise ValueError(f"the model has {len(constants)} temperatures, expected 1")
    new = opset13.constant(np.asarray(temperatures, dtype=np.float32).reshape(tuple(constants[0].get_output_shape(0))))
    new.set_friendly_name(constants[0].get_friendly_name())
    for reader in list(constants[0].output(0).get_target_inputs()):
        reader.replace_source_output(new.output(0))


def nncf_int8(data: bytes, feeds: Sequence[dict[str, NDArray[Any]]], *, transformer: bool,
              validate: Callable[[Any], float] | None = None, max_drop: float = 0.005) -> Any:
    """OpenVINO's model of an ONNX file's bytes in int8, by NNCF's post-training quantisation over calibration images.

    With `validate` (model -> score, higher is better) its accuracy control puts layers back until the score drops by max_drop at most.
    Bias correction is the slow, exact one: the fast one costs a small MobileNetV3 sixteen points. What comes before the network stays in
    float where levels have more than 8 bits: in 256 steps from -1000 to 3000 HU a brain window has five grey levels.
    """
    runtime = load_runtime()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses a GPU that nobody asked for
    try:
        import nncf
    except ImportError as error:
        raise UserError(f"nncf cannot be imported ({error}); pip install 'rd-distill[openvino]'", MISSING) from None
    nncf.set_log_level(logging.ERROR)
    model = runtime.Core().read_model(model=data)
    inputs = [tuple(feed.values()) if len(feed) > 1 else next(iter(feed.values())) for feed in feeds]
    images = nncf.Dataset(inputs)
    kind = nncf.ModelType.TRANSFORMER if transformer else None
    preset = nncf.QuantizationPreset.MIXED
    deep = any(feed.dtype in (np.uint16, np.int16) for feed in feeds[0].values())
    apart = nncf.IgnoredScope(names=_before(model)) if deep else None
    common = {"preset": preset, "model_type": kind, "subset_size": len(inputs), "fast_bias_correction": False,
              "ignored_scope": apart}
    with contextlib.redirect_stdout(io.StringIO()):  # it draws bars of its own
        if validate is None:
            return nncf.quantize(model, images, **common)
        return nncf.quantize_with_accuracy_control(model, images, images, lambda compiled, _: (validate(compiled), None),
                                                   max_drop=max_drop, drop_type=nncf.DropType.ABSOLUTE, **common)


def _before(model: Any) -> list[str]:
    """Names of the operations that hang on inputs and plain constants alone: levels to what the network sees."""
    touched, names = set[str](), list[str]()
    for node in model.get_ordered_ops():
        kind, name = node.get_type_name(), node.get_friendly_name()
        if touched.intersection(node.input_value(place).get_node().get_friendly_name() for place in range(node.get_input_size())):
            touched.add(name)
        elif kind == "Constant":
            if of_network(name):
                touched.add(name)
        elif kind not in ("Parameter", "Result"):
            names.append(name)
    return names


def logits_of(compiled: Any, feeds: Sequence[dict[str, NDArray[Any]]]) -> NDArray[np.float32]:
    """Logits (N, C) of a compiled model for single images."""
    return np.concatenate([np.asarray(compiled(tuple(feed.values()))[0]) for feed in feeds])
