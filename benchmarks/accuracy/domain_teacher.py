"""A teacher of the domain and few labels, PneumoniaMNIST (rebuilt): AUROC against the number of labels, for every method.

Owns: both teachers (supervised, self-supervised) trained on the 90 % of images that no student sees, which runs make the study, the
table, the picture. Does not own: running them and keeping their rows (study.py), the students' images (pneumonia.py), training.

    python -m benchmarks.accuracy.domain_teacher --seeds 5 --workers 2
    python -m benchmarks.accuracy.domain_teacher --table --picture benchmarks/results/domain-teacher.png
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.paired import paired, scores, told
from benchmarks.accuracy.pneumonia import few_labels, labels_of, pneumonia_arrays, pneumonia_teacher, student_rows
from benchmarks.accuracy.recipes import ALL, BY_PROBE, PNEUMONIA_STUDENT, RAW
from benchmarks.accuracy.study import Run, conduct, distilled, points

SHARES = (0.5, 1, 2, 5, 10)  # per cent of the 4708 training images that carry a label
STRICT = (1, 10)  # where the self-supervised teacher teaches too
OWN, OWN_SEEDS = "rd, CKA against the teacher", (3, 4)  # other labels than those before: beside rd of these seeds alone
METHODS = {name: ALL[name] for name in ("kd", "fitnet", "rd", BY_PROBE, "drd", "rd without CKA")} | {OWN: RAW}
COLOURS = {"vanilla": "black", "drd": "tab:green", "fitnet": "tab:olive", "kd": "tab:gray", "rd": "tab:blue",
           BY_PROBE: "tab:cyan", "rd without CKA": "tab:purple"}
SELF_STEPS, SELF_BATCH, SELF_SIDE = 1500, 64, 64


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """Seed by seed: every share of labels, with the other images of the student's 10 % unlabelled in the bank and without them."""
    teachers = {"": ("--teacher", str(pneumonia_teacher(work))),
                ", self-supervised teacher": ("--teacher", "efficientnet-lite0", "--teacher-weights", str(self_supervised(work)),
                                              "--teacher-size", str(SELF_SIDE))}
    for seed in range(seeds):
        for share in SHARES:
            labelled, hidden = few_labels(work, share, seed)
            data = ("--data", str(labelled), *PNEUMONIA_STUDENT)
            yield Run(f"{share:g} %", "vanilla", seed, (*data, "--method", "vanilla"))
            for kind, teaching in teachers.items():
                if kind and share not in STRICT:
                    continue
                for method, own in METHODS.items():
                    if (kind and method in ("drd", OWN)) or (method == OWN and seed not in OWN_SEEDS):
                        continue
                    yield Run(f"{share:g} %", method + kind, seed, (*data, *teaching, *own))
                    if hidden is not None and method != BY_PROBE:  # with unlabelled images RD is by default as published
                        yield Run(f"{share:g} % + unlabelled", method + kind, seed, (*data, "--unlabelled", str(hidden), *teaching, *own))


def self_supervised(work: Path) -> Path:
    """EfficientNet-Lite0 from ImageNet weights, trained by SimSiam (Chen and He 2021) on the images that no student sees, labels unread."""
    from safetensors.torch import save_file

    path = work / "pneumonia-self-supervised.safetensors"
    if not path.is_file():
        arrays = pneumonia_arrays()
        others = np.setdiff1d(np.arange(len(arrays["train_labels"])), student_rows(arrays["train_labels"].reshape(-1)))
        save_file(simsiam(arrays["train_images"][others]), path)
    return path


def simsiam(images: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Weights of a Lite0 whose two views of an image predict one another; images (n, 28, 28) uint8."""
    import torch
    from torch import nn
    from torchvision.transforms import v2

    from distill.networks.models import ModelSpec
    from distill.networks.students import build_student

    torch.manual_seed(0)
    model = build_student(ModelSpec("tf_efficientnet_lite0", SELF_SIDE, SELF_SIDE, "binary", ("no", "yes")), "pretrained", 0)
    width = model.head.in_features
    project = nn.Sequential(nn.Linear(width, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 512), nn.BatchNorm1d(512, affine=False))
    predict = nn.Sequential(nn.Linear(512, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 512))
    view = v2.Compose([v2.RandomResizedCrop(SELF_SIDE, (0.4, 1.0), antialias=True), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4)])
    pixels = torch.from_numpy(images)[:, None].float().div(255).expand(-1, 3, -1, -1)
    parts = nn.ModuleList([model.net, project, predict]).train()
    optimiser = torch.optim.SGD(parts.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, SELF_STEPS)
    generator = np.random.default_rng(0)
    for step in range(SELF_STEPS):
        rows = generator.choice(len(images), SELF_BATCH, replace=False)
        both = [torch.stack([view(pixels[row]) for row in rows]).sub(0.5).div(0.5) for _ in range(2)]
        keys = [project(model.features(one.contiguous(memory_format=torch.channels_last))) for one in both]
        near = [torch.cosine_similarity(predict(keys[here]), keys[1 - here].detach()).mean() for here in range(2)]
        loss = -(near[0] + near[1]) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"self-supervised: step {step} of {SELF_STEPS}, loss {float(loss.detach()):.3f}", flush=True)
    return {name: value.detach().clone().contiguous() for name, value in model.net.state_dict().items()}


Lines = dict[str, dict[float, dict[int, float]]]  # method (with or without unlabelled images) -> share of labels -> seed -> AUROC in points


def lines_of(rows: list[dict[str, Any]], split: str) -> Lines:
    """The rows by line of the picture, in the order of the tables: the supervised teacher and labels alone come first."""
    found: Lines = {}
    for setting in dict.fromkeys(row["setting"] for row in rows):
        share, _, more = setting.partition(" %")
        for method, seeds in scores(rows, setting, split).items():
            found.setdefault(method + more, {})[float(share)] = seeds
    return dict(sorted(found.items(), key=lambda pair: ("self" in pair[0], "unlabelled" in pair[0], pair[0])))


def table(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: the means, then the differences."""
    lines = lines_of(rows, split)
    return f"{means(lines)}\n\n{gains(lines)}"


def means(lines: Lines) -> str:
    """Markdown: a line a method, a column a share of labels; mean (sd over seeds) in points."""
    heads = ("method", *(f"{share:g} % ({labels_of(share)})" for share in SHARES))
    made = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name, line in lines.items():
        if not name.startswith(OWN):
            made.append(f"| {name} | {' | '.join(points([one / 100 for one in line.get(share, {}).values()]) for share in SHARES)} |")
    return "\n".join(made)


def gains(lines: Lines) -> str:
    """Markdown: each line minus vanilla on the same labels and seed, minus KD with the same images, RD's CKAs; 95 % interval (t)."""
    made = [f"| minus | method | {' | '.join(f'{share:g} %' for share in SHARES)} |", f"|{'---|' * (len(SHARES) + 2)}"]
    others = [name for name in lines if not name.startswith(OWN)]
    pairs = {"vanilla": [name for name in others if name != "vanilla"],
             "kd + unlabelled": [name for name in others if "unlabelled" in name and "self" not in name and name != "kd + unlabelled"],
             "rd": [OWN], "rd + unlabelled": [f"{OWN} + unlabelled"]}
    for base, names in pairs.items():
        for name in names:
            line = lines.get(name, {})
            if line and base in lines:
                cells = [told(paired(line[share], lines[base][share])) if share in line and share in lines[base] else "-"
                         for share in SHARES]
                made.append(f"| {base} | {name} | {' | '.join(cells)} |")
    return "\n".join(made)


def picture(rows: list[dict[str, Any]], split: str, path: Path) -> None:
    """Draw mean AUROC against labels with its spread: the supervised teacher's methods, with unlabelled images and without."""
    from matplotlib.figure import Figure

    lines = lines_of(rows, split)
    figure = Figure(figsize=(8.6, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, title, more in zip(panels, ("labels alone", "and all other images unlabelled"), ("", " + unlabelled"), strict=True):
        for place, (name, colour) in enumerate(COLOURS.items()):
            line = lines.get(name if name == "vanilla" else name + more, {})
            if not line:
                continue
            shares = sorted(line)
            values = [np.asarray(list(line[share].values())) for share in shares]
            axes.errorbar([labels_of(share) * 1.03 ** place for share in shares],  # beside one another, or the bars hide each other
                          [one.mean() for one in values], [one.std(ddof=len(one) > 1) for one in values], label=name, color=colour,
                          linestyle="--" if name == "vanilla" else "-", marker="o", markersize=3, capsize=2)
        axes.set(xscale="log", xlabel="labelled images", title=title)
        axes.set_xticks([labels_of(share) for share in SHARES], [str(labels_of(share)) for share in SHARES])
        axes.minorticks_off()
        axes.legend(fontsize=7, loc="lower right")
    panels[0].set_ylabel(f"AUROC on {split}, points: mean, sd over seeds")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    conduct(__doc__ or "", "domain-teacher", runs, distilled, table, picture)
