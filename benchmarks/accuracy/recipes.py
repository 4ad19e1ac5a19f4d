"""Recipes that more than one study of accuracy uses: flags of rd-distill and rd-adapt by the name that tables give them.

Owns: methods, students, teachers and lengths of training as flags; how many folds there are. Does not own: what one study alone is about.
A changed recipe is another study: rows that it has already were made by the old one.
"""

from __future__ import annotations

# RD as published, which studies call "rd": it distils the teacher branch's logits. Left to itself rd-distill takes the probe's where every
# image carries a label: "rd, KD from the probe".
PUBLISHED, PROBED = ("--method", "rd", "--kd-from", "branch"), ("--method", "rd", "--kd-from", "probe")
BY_PROBE = "rd, KD from the probe"  # what --method rd does by default where every image carries a label
# What every data set and student is measured with; then what one is measured with besides. By the defaults of rd-distill,
# but for "rd", which is RD as published.
CORE: dict[str, tuple[str, ...]] = {
    "vanilla": ("--method", "vanilla"),
    "kd": ("--method", "kd"),
    "fitnet": ("--method", "fitnet"),
    "rd": PUBLISHED,
    "drd": ("--method", "drd"),
    BY_PROBE: PROBED,
}
MORE: dict[str, tuple[str, ...]] = {
    "rd without CKA": (*PUBLISHED, "--cka-weight", "0"),
    "rd, a classifier of its own": (*PUBLISHED, "--classifier", "own"),
    "rd, biased CKA": (*PUBLISHED, "--cka", "biased"),
    "dkd": ("--method", "dkd"),
    "dist": ("--method", "dist"),
    "rkd": ("--method", "rkd"),
    "crd": ("--method", "crd"),
    "at": ("--method", "at", "--views", "tied"),
}
ALL = CORE | MORE
RAW = (*PUBLISHED, "--cka-against", "teacher")

# Pruned students of another kind.
PAIRS = {"repvit pruned to 60 M MACs": ("--student", "repvit", "--max-macs", "60M"),
         "convnext-atto pruned to 50 M MACs": ("--student", "convnext-atto", "--max-macs", "50M", "--lr", "1e-3")}
# Studies of larger students and larger sets take half the steps of the default, to fit a few hours of two cores; the same for every method.
SHORT = ("--epochs", "20", "--min-steps", "600", "--bootstrap", "20")
# The student of pneumonia's few labels, in one stage: what a first one adds is the label curve's question.
PNEUMONIA_STUDENT = ("--student", "mobilenetv3_small_050", "--size", "64", "--min-steps", "600", "--epochs", "10", "--bootstrap", "20",
                     "--audit", "0.002")
# The student of the label curve, on three sets.
LABEL_CURVE_STUDENT = ("--student", "mobilenetv3_small_050", "--size", "64", "--min-steps", "600", "--epochs", "5", "--bootstrap", "0",
                       "--audit", "0")
FOLDS = 3  # of BUSI's training images

# Teachers that rd-adapt makes, which the studies of adapters, folding and forgetting share.
# 64 px is the size of NIH's pictures and above that of pneumonia's; it keeps the study within one to two and a half hours of two
# cores. Some 100 steps of 32 images a teacher, 800 a student; few turns, since each ends with a look at validation.
ADAPTER_SIDE = "64"
PLAIN_TEACHER = ("--teacher", "efficientnet-lite0", "--teacher-size", ADAPTER_SIDE, "--bank-views", "4")
ADAPTING = ("--epochs", "3", "--bootstrap", "20", "--adapt-share", "1")  # beside every layer, whatever it costs
TO_THE_END = ("--keep-experts", "last")  # these studies are about experts, also where they lose to the probe
ADAPTED_TEACHER = (*PLAIN_TEACHER, *ADAPTING, *TO_THE_END)
# Total rank 8 a layer, so that all have the same factors; gates and a pooled adapter are what differs.
ADAPTERS: dict[str, tuple[str, ...]] = {
    "none": (),
    "lora": ("--method", "lora", "--rank", "8"),
    "lora, PiSSA start": ("--method", "lora", "--rank", "8", "--init", "pissa"),
    "mixture, start from zero": ("--method", "moe"),
    "molre, behind the pool": ("--method", "molre"),
    "spectral": ("--method", "spectral"),
}
