"""Wrong inputs to what comes after training, hand-written: students, artifacts, keys, targets, reports of latency.

Owns: ARTIFACT_CASES. Does not own: the other cases (catalogue.py), spoiling folders (folders.py), judging (robustness/inputs.py).
"""

from __future__ import annotations

import shutil

from benchmarks.robustness.cases.case import TINY, Case, both, good, text
from benchmarks.robustness.cases.folders import copied, external_data, flip_byte, keys, no_model, other_scores

EXPORT = "rd-export --student-dir student"
BENCH = "rd-bench artifact --batch 1 --threads 1 --paths array --seconds 0.1 --samples 20 --no-roofline --no-profile"
BUDGET = TINY + " --method vanilla --max-latency-ms 3 --latency-table board.json"

ARTIFACT_CASES: tuple[Case, ...] = (
    Case("export of no folder", "rd-export --student-dir nowhere", 1, "nowhere"),
    Case("export of a folder that is no student", EXPORT, 1, "manifest", text("student/a.txt", "x")),
    Case("export of an artifact", "rd-export --student-dir artifact --out other", 1, "kind", copied("artifact")),
    Case("export of a tampered student", EXPORT, 1, "other bytes", copied("student", flip_byte("model.safetensors"))),
    Case("--input-size that is no size", EXPORT + " --input-size big", 2, "input-size", copied("student")),
    Case("--input-size of 2 pixels", EXPORT + " --input-size 2x2", 2, "input-size", copied("student")),
    Case("unknown target", EXPORT + " --target tflite", 2, "target", copied("student")),
    Case("precision that is not there yet", EXPORT + " --precision int4", 2, "precision", copied("student")),
    Case("export with data of other classes", EXPORT + " --data data", 1, "classes",
         both(lambda folder, _: good(folder), copied("student"))),
    Case("export when the images are gone", EXPORT + " --data nowhere", 1, "--data", copied("student")),
    Case("export into a folder in use", EXPORT + " --out artifact", 2, "not empty", both(copied("student"), copied("artifact"))),
    Case("verify: tampered model", "rd-verify artifact", 1, "model.onnx", copied("artifact", flip_byte("model.onnx"))),
    Case("verify: file missing", "rd-verify artifact", 1, "missing", copied("artifact", lambda folder: (folder / "parity.json").unlink())),
    Case("verify: file added", "rd-verify artifact", 1, "not named", copied("artifact", lambda folder: (folder / "extra.txt").touch())),
    Case("verify: golden vectors gone", "rd-verify artifact", 1, "test_data_set_0",
         copied("artifact", lambda folder: shutil.rmtree(folder / "test_data_set_0"))),
    Case("verify: a model that is no ONNX, manifest agrees", "rd-verify artifact", 1, "model.onnx", copied("artifact", no_model)),
    Case("verify: a model with external data, manifest agrees", "rd-verify artifact", 1, "values in another file",
         copied("artifact", external_data)),
    Case("verify: other scores than golden", "rd-verify artifact", 3, "golden", copied("artifact", other_scores)),
    Case("verify: a folder that is no artifact", "rd-verify student", 1, "kind", copied("student")),
    Case("verify: no folder", "rd-verify nowhere", 1, "nowhere"),
    Case("verify: device that is not there", "rd-verify artifact --device cuda", 5, "CUDA", copied("artifact")),
    Case("verify: 10,000 threads", "rd-verify artifact --threads 10000", 2, "expected 1 to", copied("artifact")),
    Case("verify: zero threads", "rd-verify artifact --threads 0", 2, "threads", copied("artifact")),
    Case("info: no folder", "rd-info nowhere", 1, "nowhere is not there"),
    Case("info: a file", "rd-info artifact/model.onnx", 1, "name the folder that holds it", copied("artifact")),
    Case("info: somebody's folder", "rd-info mine", 1, "none of our folders", text("mine/notes.txt", "mine")),
    Case("info: somebody's manifest", "rd-info app", 1, "kind", text("app/manifest.json", '{"name": "app"}')),
    Case("info: a manifest that is no JSON", "rd-info app", 1, "not readable JSON", text("app/manifest.json", "{")),
    Case("info: a manifest of a later version", "rd-info app", 1, "format 9",
         text("app/manifest.json", '{"kind": "student", "format": 9, "files": {}}')),
    Case("info: tampered student", "rd-info student", 1, "CHANGED", copied("student", flip_byte("model.safetensors"))),
    Case("info: an unknown flag", "rd-info student --deep", 2, "--deep", copied("student")),
    # targets and precisions
    Case("bf16 for ONNX Runtime", EXPORT + " --precision bf16", 2, "openvino", copied("student")),
    Case("GPU that TensorRT-RTX does not build for", EXPORT + " --target trt --gpu sm50", 2, "sm50", copied("student")),
    Case("GPU that is none", EXPORT + " --target trt --gpu fast", 2, "fast", copied("student")),
    Case("build on a device without a GPU", EXPORT + " --target trt --on-device", 5, "tensorrt", copied("student")),
    Case("flips that are no share", EXPORT + " --precision int8 --max-flips many", 2, "max-flips", copied("student")),
    Case("flips above one in one", EXPORT + " --precision int8 --max-flips 150%", 2, "max-flips", copied("student")),
    Case("drop of AUROC below 0", EXPORT + " --precision int8 --max-auc-drop -1", 2, "max-auc-drop", copied("student")),
    Case("four golden images", EXPORT + " --golden-images 4", 2, "golden-images", copied("student")),
    Case("opset of another age", EXPORT + " --opset 3", 2, "opset", copied("student")),
    # keys
    Case("sign with a key that is not there", EXPORT + " --sign key.pem", 2, "key.pem", copied("student")),
    Case("sign with words", EXPORT + " --sign key.pem", 2, "key.pem", both(copied("student"), text("key.pem", "secret"))),
    Case("sign with the public half", EXPORT + " --sign public.pem", 2, "private", both(copied("student"), keys)),
    Case("sign with a key of another kind", EXPORT + " --sign other.pem", 2, "Ed25519", both(copied("student"), keys)),
    Case("verify: a key that is not there", "rd-verify artifact --public-key key.pem", 2, "key.pem", copied("artifact")),
    Case("verify: the private half as the key", "rd-verify artifact --public-key private.pem", 2, "public", both(copied("artifact"), keys)),
    Case("verify: unsigned, but a key is asked for", "rd-verify artifact --public-key public.pem", 1, "not signed",
         both(copied("artifact"), keys)),
    Case("verify: a signature of nobody", "rd-verify artifact --public-key public.pem", 1, "manifest.sig",
         both(copied("artifact"), keys, text("artifact/manifest.sig", "x" * 64))),
    # latency
    Case("bench: no artifact", "rd-bench --batch 1", 2, "artifact"),
    Case("bench: a folder that is not there", BENCH.replace("artifact", "nowhere"), 1, "nowhere"),
    Case("bench: a student", BENCH.replace("artifact", "student"), 1, "kind", copied("student")),
    Case("bench: tampered model", BENCH, 1, "model.onnx", copied("artifact", flip_byte("model.onnx"))),
    Case("bench: the same artifact twice", BENCH + " --teacher artifact", 2, "artifact", copied("artifact")),
    Case("bench: batch of nothing", BENCH.replace("--batch 1", "--batch 0"), 2, "batch", copied("artifact")),
    Case("bench: zero threads", BENCH.replace("--threads 1", "--threads 0"), 2, "threads", copied("artifact")),
    Case("bench: cores this machine has not", BENCH + " --cores 4095", 2, "cores", copied("artifact")),
    Case("bench: device that is not there", BENCH + " --device cuda", 5, "CUDA", copied("artifact")),
    Case("bench: folder without images", BENCH.replace("array", "file") + " --images data", 1, "holds no file",
         both(copied("artifact"), text("data/notes.txt", "mine"))),
    Case("bench: deadline of no time", BENCH + " --deadline-ms 0", 2, "deadline-ms", copied("artifact")),
    Case("bench: report in a folder in use", BENCH + " --out student", 2, "not empty", both(copied("artifact"), copied("student"))),
    Case("bench: a table where nothing can be written", BENCH + " --save-table no/board.json", 2, "no/board.json", copied("artifact")),
    Case("bench: a table without single images", BENCH.replace("--batch 1", "--batch 8") + " --save-table board.json", 2, "--batch 1",
         copied("artifact")),
    Case("bench: YAML with an unknown key", BENCH + " --config run.yaml", 2, "deadline_ms",
         both(copied("artifact"), text("run.yaml", "deadline: 3\n"))),
    Case("bench: soak of two", "rd-bench artifact artifact --soak-minutes 1", 2, "one artifact", copied("artifact")),
    Case("compare: a report that is not there", "rd-bench --compare old.json new.json", 1, "old.json"),
    Case("compare: a file that is no report", "rd-bench --compare old.json old.json", 1, "old.json", text("old.json", "{}")),
    Case("student for a table that is not there", BUDGET, 1, "board.json"),
    Case("student for a table that is none", BUDGET, 1, "board.json", text("board.json", "[]")),
)
