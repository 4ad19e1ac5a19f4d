"""All wrong inputs, hand-written: images, tables, archives, volumes, names, weights, banks, adapters, settings.

Owns: CASES. Does not own: those of finished folders (artifacts.py), making the files (case.py), judging (robustness/inputs.py).
"""

from __future__ import annotations

import pickle

import numpy as np

from benchmarks.robustness.cases.artifacts import ARTIFACT_CASES
from benchmarks.robustness.cases.case import (
    TAUGHT,
    TINY,
    VANILLA,
    Case,
    bomb,
    both,
    frames,
    good,
    graded,
    grey,
    named,
    nifti,
    npz,
    peft,
    picture,
    spoilt,
    table,
    text,
    truncated,
    volume,
    without_labels,
    words,
)
from benchmarks.robustness.cases.devices import DEVICE_CASES
from benchmarks.robustness.cases.folders import Evil, bad_weights, copied, flip_byte, interrupted
from benchmarks.robustness.cases.foreign import FOREIGN_CASES
from benchmarks.robustness.cases.leaks import LEAK_CASES
from benchmarks.robustness.cases.manifests import MANIFEST_CASES
from benchmarks.robustness.cases.names import NAME_CASES
from benchmarks.robustness.cases.outs import OUT_CASES
from benchmarks.robustness.cases.pictures import PICTURE_CASES
from benchmarks.robustness.cases.tables import TABLE_CASES

CSV = VANILLA.replace("--data data", "--data data/labels.csv")
NPZ = VANILLA.replace("--data data", "--data data.npz")
PLAIN = TINY + " --method vanilla"
ADAPT = "rd-adapt" + TAUGHT.removeprefix("rd-distill --student mobilenetv3_small_050 --size 64")
HEAD = "conv_head"

CASES: tuple[Case, ...] = (
    # folders of images
    Case("empty folder", VANILLA, 1, "no image", lambda folder, _: (folder / "data").mkdir()),
    Case("folder that is not there", VANILLA, 1, "does not exist"),
    Case("one class only", VANILLA, 1, "only one class", lambda folder, _: good(folder, ("a",))),
    Case("truncated PNG", VANILLA, 1, "03.png", spoilt(truncated)),
    Case("empty file", VANILLA, 1, "03.png", spoilt(lambda path: path.touch())),
    Case("text file named .png", VANILLA, 1, "03.png", spoilt(words)),
    Case("GIF named .png", VANILLA, 1, "03.png", spoilt(lambda path: named(path, "GIF"))),
    Case("bomb of 10240 x 10240 pixels", VANILLA, 1, "03.png", spoilt(bomb)),
    Case("TIFF of two frames", VANILLA, 1, "03.tif", spoilt(frames, "a/03.tif")),
    Case("GIF of two frames", VANILLA, 1, "03.gif", spoilt(frames, "a/03.gif")),
    Case("picture of one grey level", VANILLA, 1, "constant", spoilt(grey)),
    Case("8 and 16 bit mixed", VANILLA, 1, "16-bit", spoilt(lambda path: picture(path, 3, "uint16"))),
    Case("same picture in two classes", VANILLA, 1, "contradicting", spoilt(lambda path: picture(path, 1003))),
    Case("picture beside the class folders", VANILLA, 1, "class folders", spoilt(picture, "stray.png")),
    Case("three images in all", VANILLA, 1, "too few", lambda folder, _: good(folder, ("a", "b", "c"), 1)),
    Case("train folder beside class folders", VANILLA, 1, "train", lambda folder, _: good(folder, ("train", "b"))),
    # tables
    Case("CSV without image column", CSV, 1, "no column image", table("exhibit,label")),
    Case("CSV names a missing file", CSV, 1, "gone.png", table("image,label", "gone.png,a")),
    Case("CSV with an unknown split word", CSV, 1, "later", table("image,label,split", "23.png,a,later")),
    Case("patient in two splits", CSV, 1, "patient", table("image,label,split,patient", "23.png,a,test,p0")),
    Case("label that is no class", CSV, 1, "severe", table("image,grade", "23.png,severe", change=graded)),
    Case("finding neither 0 nor 1", CSV, 1, "inf", table("image,cyst,mass", "23.png,inf,0")),
    Case("all labels NaN", CSV, 1, "class", table("image,label", change=without_labels)),
    Case("CSV in UTF-16 without a byte order mark", CSV, 1, "UTF-8", table("image,label", encoding="utf-16-le")),
    Case("CSV with a row cut short", CSV, 1, "cells", table("image,label,split", "23.png")),
    Case("empty CSV", CSV, 1, "no content", text("data/labels.csv", "")),
    Case("--label names no column", CSV + " --label diagnosis", 2, "diagnosis", table("image,label")),
    Case("--task binary for three classes", VANILLA + " --task binary", 2, "2 classes", lambda folder, _: good(folder, ("a", "b", "c"))),
    # archives
    Case("broken .npz", NPZ, 1, "not a readable", text("data.npz", b"PK\x03\x04" + bytes(200))),
    Case("pickled objects in an .npz", NPZ, 1, "ickle", npz(train_images=np.asarray([Evil()] * 16, dtype=object))),
    Case("fewer labels than images", NPZ, 1, "labels", npz(train_labels=np.zeros((3, 1), dtype=np.int64))),
    Case("volumes beside images in an .npz", NPZ, 1, "all alike", npz(train_images=np.zeros((16, 28, 28, 28), dtype=np.uint8))),
    Case(".npz without training images", NPZ, 1, "train_images", npz(train_images=None)),
    Case("file of another kind", VANILLA.replace("--data data", "--data scan.dcm"), 1, "no known kind", text("scan.dcm", b"DICM")),
    Case("unlabelled folder that is not there", VANILLA + " --unlabelled nowhere", 1, "nowhere", lambda folder, _: good(folder)),
    # volumes
    Case("volumes: damaged .nii.gz", VANILLA, 1, "03.nii.gz", nifti(lambda path: path.write_bytes(path.read_bytes()[:300]))),
    Case("volumes: NaN voxels", VANILLA, 1, "NaN", nifti(lambda path: volume(path, fill=np.nan))),
    Case("volumes: four axes", VANILLA, 1, "one volume", nifti(lambda path: volume(path, (16, 16, 6, 2)))),
    Case("volumes: one value everywhere", VANILLA, 1, "single value", nifti(lambda path: volume(path, fill=7.0))),
    Case("volumes: a picture among them", VANILLA, 1, "volumes", both(nifti(lambda path: None), lambda folder, _: picture(
        folder / "data" / "a" / "99.png"))),
    Case("volumes: window the wrong way round", VANILLA + " --volume-window 80 -20", 2, "window", nifti(lambda path: None)),
    Case("volumes: no slices", VANILLA + " --slices 0", 2, "slices", nifti(lambda path: None)),
    # budgets and methods
    Case("budget: no number", PLAIN + " --max-params lots", 2, "--max-params"),
    Case("budget: nothing", PLAIN + " --max-macs 0", 2, "--max-macs"),
    Case("budget: below zero", PLAIN + " --max-latency-ms -1", 2, "--max-latency-ms"),
    Case("budget: that nothing fits", PLAIN + " --max-params 100", 4, "does not fit"),
    Case("budget: rounds without one", PLAIN + " --prune-rounds 2", 2, "budget"),
    Case("budget: a network that cannot be pruned", PLAIN.replace("mobilenetv3_small_050", "fastvit") + " --max-params 1M", 1,
         "cannot be pruned"),
    Case("budget: scales of a network without any", PLAIN.replace("mobilenetv3_small_050", "convnext-atto")
         + " --max-params 1M --importance bn-scale", 1, "bn-scale"),
    Case("drd: a student without stages", TAUGHT.replace("--student mobilenetv3_small_050", "--student vit-tiny") + " --method drd", 2,
         "stages"),
    Case("drd: more stages than there are", TAUGHT.replace("--size 64", "--size 16") + " --method drd --stages 5", 2, "--stages"),
    Case("drd: a bank without stages", TINY + " --teacher bank:bank --method drd", 2, "stages", copied("bank")),
    Case("at: views that differ", TAUGHT + " --method at", 2, "--views tied"),
    Case("dkd: several findings an image", TAUGHT + " --method dkd", 2, "dkd"),
    Case("a classifier of its own without a branch", TAUGHT + " --method kd --classifier own", 2, "--classifier"),
    Case("auto student without a budget", TINY.replace("mobilenetv3_small_050", "auto"), 2, "needs a budget"),
    Case("auto student within a budget that nothing fits", TINY.replace("mobilenetv3_small_050", "auto") + " --max-params 1000", 4,
         "nearest"),
    Case("auto student with weights", TINY.replace("mobilenetv3_small_050", "auto") + " --max-params 1M --student-weights pretrained", 2,
         "--student-weights"),
    Case("two teachers and no method for them", PLAIN + " --second-teacher efficientnet-lite2", 2, "--second-teacher"),
    Case("a second teacher that is none", TAUGHT + " --second-teacher nowhere", 2, "nowhere"),
    # names and weights
    Case("misspelt student", TINY.replace("mobilenetv3_small_050", "mobilnetv3"), 2, "did you mean"),
    Case("unknown teacher", TINY + " --teacher biomedclop", 2, "biomedclop"),
    Case("teacher without weights at hand, offline", TINY + " --teacher resnet18", 1, "weights"),
    Case("pretrained student without weights at hand", PLAIN + " --student-weights pretrained", 1, "weights"),
    Case("weights file that is not there", PLAIN + " --student-weights gone.pth", 1, "gone.pth"),
    Case("weights that would run code", PLAIN + " --student-weights evil.pth", 1, "more than tensors",
         text("evil.pth", pickle.dumps(Evil()))),
    Case("weights of another network", PLAIN.replace("small_050", "small_075") + " --student-weights student --out other", 1,
         "does not fit", copied("student")),
    Case("broken .safetensors", PLAIN + " --student-weights w.safetensors", 1, "w.safetensors",
         text("w.safetensors", b"\xff" * 64)),
    Case("broken .pt2 teacher", TINY + " --teacher t.pt2", 1, "t.pt2", text("t.pt2", b"PK\x03\x04" + bytes(99))),
    Case("teacher of NaN", TAUGHT.replace("random", "nan.pth"), 1, "finite", bad_weights),
    Case("hf: teacher that is not there", TINY + " --teacher hf:./nowhere", 1, "nowhere"),
    # banks
    Case("stale bank", TAUGHT + " --bank bank --bank-seed 9", 1, "stale", copied("bank")),
    Case("corrupted bank", TAUGHT + " --bank bank", 1, "other bytes", copied("bank", flip_byte("features-00000.safetensors"))),
    Case("bank that lacks images", TAUGHT.replace("48 16 16", "64 16 16") + " --bank bank", 1, "lacks", copied("bank")),
    Case("bank: of no folder", TINY + " --teacher bank:nowhere", 1, "nowhere"),
    Case("--bank is a file", TAUGHT + " --bank notes.txt", 2, "notes.txt", text("notes.txt", "mine")),
    Case("--bank is a folder of something else", TAUGHT + " --bank mine", 1, "manifest", text("mine/notes.txt", "mine")),
    Case("more views than the bank has", TAUGHT.replace("--bank-views 1", "--bank-views 3") + " --bank bank", 1, "views", copied("bank")),
    # adapters
    Case("adapt: rank larger than every layer", ADAPT + " --method lora --rank 4096", 2, "takes rank 4096"),
    Case("adapt: no layer of that kind", ADAPT + " --adapt-layers attention", 2, "matches no layer"),
    Case("adapt: more experts on than there are", ADAPT + " --top-k 9", 2, "top-k 9"),
    Case("adapt: a start of another method", ADAPT + " --init pissa", 2, "--init pissa"),
    Case("adapt: teacher that shows no layers", ADAPT.replace("--teacher mobilenetv3_small_050", "--teacher t.pt2"), 2, "t.pt2"),
    Case("adapt: only a bank", ADAPT.replace("--teacher mobilenetv3_small_050", "--teacher bank:nowhere"), 2, "bank:nowhere"),
    Case("adapt: learning rate that explodes", ADAPT + " --method moe --lr 1e30 --epochs 3", 1, "finite"),
    Case("adapt: a fold that changes too much", ADAPT + " --merge mean --max-fold-error 1e-9", 3, "--max-fold-error"),
    Case("adapt: gates to make constant where there are none", ADAPT + " --method lora --merge-aware 0.3", 2, "--merge-aware"),
    Case("adapt: routed experts as PEFT", ADAPT + " --peft", 2, "--peft"),
    Case("adapt: --out not empty", ADAPT, 2, "not empty", text("teacher/notes.txt", "mine")),
    Case("adapter folder that is not there", TAUGHT + " --teacher-adapter nowhere", 1, "no PEFT folder"),
    Case("adapter of another network", TAUGHT + " --teacher-adapter peft", 1, "does not fit", peft("blocks.99.fc", 8)),
    Case("adapter of other widths", TAUGHT + " --teacher-adapter peft", 1, "does not fit", peft(HEAD, 7)),
    Case("adapter of other base weights", TAUGHT + " --teacher-adapter peft", 1, "trained on weights", peft(HEAD, 288, "0" * 64)),
    Case("adapter folder of pickles", TAUGHT + " --teacher-adapter peft", 1, "no PEFT folder",
         both(text("peft/adapter_config.json", "{}"), text("peft/adapter_model.bin", pickle.dumps(Evil())))),
    # settings
    Case("--out not empty", TINY, 2, "not empty", text("student/notes.txt", "mine")),
    Case("--out is a file", TINY, 2, "is a file", text("student", "mine")),
    Case("--out below a file", PLAIN + " --out notes.txt/student", 2, "which is a file", text("notes.txt", "mine")),
    Case("--out where nothing can be written", PLAIN + " --out /proc/nothing/student", 1, "/proc"),
    Case("--resume with other settings", TAUGHT + " --resume", 2, "other settings", interrupted),
    Case("--resume of a run of no settings", TAUGHT + " --resume", 2, "none of our commands wrote",
         text("student.partial/settings.json", "{}")),
    Case("--resume of a run whose note is broken", TAUGHT + " --resume", 1, "settings.json", text("student.partial/settings.json", "{")),
    Case("interrupted run without --resume", TAUGHT, 2, "--resume", interrupted),
    Case("YAML with an unknown key", TINY + " --config run.yaml", 2, "epochs", text("run.yaml", "epoch: 3\n")),
    Case("YAML with a wrong type", "rd-distill --config run.yaml", 2, "epochs", text("run.yaml", "epochs: many\n")),
    Case("YAML that is a list", TINY + " --config run.yaml", 2, "run.yaml", text("run.yaml", "- 1\n- 2\n")),
    Case("YAML that cannot be parsed", TINY + " --config run.yaml", 2, "run.yaml", text("run.yaml", "a: [1\n")),
    Case("YAML that is not there", TINY + " --config run.yaml", 2, "run.yaml"),
    Case("unknown flag", TINY + " --epoch 3", 2, "epoch"),
    Case("flag of a wrong type", TINY + " --batch many", 2, "batch"),
    Case("negative learning rate", TINY + " --lr -1", 2, "--lr"),
    Case("learning rate NaN", TINY + " --lr nan", 2, "--lr"),
    Case("learning rate that explodes", PLAIN + " --lr 1e30 --epochs 4", 1, "finite"),
    Case("zero epochs", TINY + " --epochs 0", 2, "epochs"),
    Case("threads below 0", PLAIN + " --threads -3", 2, "threads"),
    Case("seed beyond 64 bits", PLAIN + " --seed 99999999999999999999", 2, "seed"),
    Case("batch of one image of one place", TINY.replace("--size 64", "--size 32") + " --method vanilla --batch 1", 2, "batch"),
    Case("size of 2 pixels", TINY + " --size 2", 2, "size"),
    Case("network that has no one linear head", PLAIN + " --student levit_128s", 1, "linear classifier"),
    Case("network that shrinks the picture to nothing", PLAIN.replace("--size 64", "--size 16") + " --student convnext_atto", 1, "16x16"),
    Case("teacher that shrinks the picture to nothing",
         TAUGHT.replace("--teacher mobilenetv3_small_050", "--teacher convnext_atto").replace("-size 64 --bank", "-size 16 --bank"), 1,
         "16x16"),
    Case("device that is not there", TINY + " --device cuda:63", 5, "cuda:63"),
    Case("device with a number that is none", TINY + " --device cuda:one", 2, "cuda:one"),
    Case("unknown device", TINY + " --device tpu", 2, "tpu"),
    Case("--views tied without a bank", PLAIN + " --views tied", 2, "tied"),
    Case("grid through ONNX Runtime", TAUGHT.replace("torch", "onnx") + " --bank-grid 2", 2, "--bank-grid"),
    *ARTIFACT_CASES,
    *OUT_CASES,
    *FOREIGN_CASES,
    *DEVICE_CASES,
    *PICTURE_CASES,
    *TABLE_CASES,
    *LEAK_CASES,
    *NAME_CASES,
    *MANIFEST_CASES,
)
