"""LoRA folders of peft merged by peft and by us: a grid of its settings, each value, each pair of values, random mixtures.

Owns: the network, the grid, the folders, comparing weights, the table. Does not own: the merge (distill/teacher/peft_folder.py).
Every folder must give the same weights to 1e-5, or be refused by name; what peft refuses itself is counted apart. Needs peft.

    python -m benchmarks.robustness.peft_grid
    python -m benchmarks.robustness.peft_grid --pairs 1000 --mixtures 400
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import itertools
import json
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.record import RESULTS, facts, store
from distill.teacher.peft_folder import merge_peft
from runtimes.errors import UserError

TOLERANCE = 1e-5
WIDTH = 8
GRID: dict[str, list[Any]] = {
    "target_modules": [["qkv", "fc1"], ["fc1", "conv"], r".*\.(fc1|fc2)", r"trunk\.blocks\.[02]\.(qkv|conv)", ["trunk.blocks.1.fc1"],
                       ["stem"], "all-linear", ["fc1", "head"], ["grouped"], ["embed"], ["qkv", "fc1", "fc2", "conv", "stem", "head"]],
    "exclude_modules": [None, ["blocks.0.fc1"], r".*blocks\.2\..*", ["fc1"], []],
    "r": [4, 1, 7],
    "lora_alpha": [8, 1, 0],
    "rank_pattern": [{}, {"fc1": 3}, {"trunk.blocks.1.fc1": 5}, {r"blocks\.[01]\..*": 6}, {"blocks.1.fc1": 2, "fc1": 3}, {"c1": 2},
                     {"fc1|qkv": 2}, {"^trunk.blocks.0.fc1": 2}, {"stem": 2, "conv": 3}],
    "alpha_pattern": [{}, {"fc1": 3}, {"blocks.1.fc1": 5}, {r".*\.1\..*": 16}, {"qkv$": 2, "fc1": 7}, {"blocks.0": 3},
                      {"fc.": 2.5}],
    "bias": ["none", "all", "lora_only"],
    "use_rslora": [False, True],
    "init_lora_weights": [True, False, "gaussian", "orthogonal", "eva", "olora", "pissa", "pissa_niter_4", "mica", "loftq", "corda",
                          "lora_ga"],
    "layers_to_transform": [None, 1, [0, 2], []],
    "layers_pattern": [None, "blocks", ["layers", "blocks"]],
    "modules_to_save": [None, ["head"], ["norm"], ["head", "bn"], ["trunk.blocks.1"]],
    "fan_in_fan_out": [False, True],
    "lora_bias": [False, True],
    "use_dora": [False, True],
    "use_qalora": [False, True],
    "kind": [{}, {"target_parameters": ["trunk.blocks.0.fc2.weight"]}, {"trainable_token_indices": {"embed": [1]}},
             {"layer_replication": [[0, 2], [1, 3]]}, {"alora_invocation_tokens": [1]}, {"megatron_config": {}},
             {"ensure_weight_tying": True}, {"task_type": "FEATURE_EXTRACTION"}, {"inference_mode": True}, {"lora_dropout": 0.5},
             {"loftq_config": {"loftq_bits": 4, "loftq_iter": 1}}],
    "edit": ["", "one layer dropped", "half a layer dropped", "layer added", "base weight added", "bias added", "alpha by hand",
             "rank by hand", "rank pattern by hand", "alpha pattern by hand", "all-linear by hand", "unknown key", "unknown empty key",
             "half precision", "rslora by hand", "start by hand", "prefix gone"],
}


class Block(nn.Module):
    """Linear layers, a 1x1 and a grouped convolution, a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.fc1, self.fc2 = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)
        self.norm, self.conv = nn.LayerNorm(WIDTH), nn.Conv2d(WIDTH, 6, 1)
        self.grouped = nn.Conv2d(WIDTH, WIDTH, 3, groups=4)


class Net(nn.Module):
    """A stem, three blocks, a batch norm, an embedding and a head; only its weights are looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, WIDTH, (3, 2), stride=2, padding=1), nn.BatchNorm2d(WIDTH)
        self.trunk = nn.Module()
        self.trunk.blocks = nn.ModuleList(Block() for _ in range(3))
        self.embed, self.head = nn.Embedding(5, WIDTH), nn.Linear(WIDTH, 4)

    def get_classifier(self) -> nn.Module:
        """As timm's networks have it."""
        return self.head


def base(seed: int = 0) -> Net:
    """A network of random weights."""
    torch.manual_seed(seed)
    net = Net().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.3)
    return net


def write(folder: Path, settings: Mapping[str, Any]) -> None:
    """A folder as peft saves it after training every parameter that it trains, then edited as the settings say."""
    import peft

    own = {name: value for name, value in settings.items() if name not in ("kind", "edit")} | settings["kind"]
    model = peft.get_peft_model(base(), peft.LoraConfig(**copy.deepcopy(own)))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    setattr(model, "create_or_update_model_card", lambda *_: None)  # noqa: B010 - mypy; a third of the time of a folder
    model.save_pretrained(str(folder))
    edit(folder, settings["edit"])


def edit(folder: Path, how: str) -> None:
    """Change a saved folder as somebody might by hand, or as a damaged copy is."""
    from safetensors.torch import load_file, save_file

    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    first = next(iter(sorted(name for name in tensors if ".lora_A." in name)), "none.lora_A.weight")
    layer = first.rsplit(".lora_A.", 1)[0]
    by_hand: dict[str, Callable[[], Any]] = {
        "one layer dropped": lambda: [tensors.pop(name) for name in list(tensors) if name.startswith(f"{layer}.")],
        "half a layer dropped": lambda: tensors.pop(first, None),
        "layer added": lambda: tensors.update({"base_model.model.trunk.blocks.2.fc2.lora_A.weight": torch.ones(4, 12),
                                               "base_model.model.trunk.blocks.2.fc2.lora_B.weight": torch.ones(WIDTH, 4)}),
        "base weight added": lambda: tensors.update({"base_model.model.trunk.blocks.2.norm.weight": torch.ones(WIDTH)}),
        "bias added": lambda: tensors.update({"base_model.model.trunk.blocks.2.norm.bias": torch.ones(WIDTH)}),
        "alpha by hand": lambda: config.update(lora_alpha=3.5),
        "rank by hand": lambda: config.update(r=config["r"] + 1),
        "rank pattern by hand": lambda: config.update(rank_pattern={r".*fc\d": config["r"], "qkv": config["r"]}),
        "alpha pattern by hand": lambda: config.update(alpha_pattern={".*": 2, "blocks.1.fc1": 99}),
        "all-linear by hand": lambda: config.update(target_modules="all-linear"),
        "unknown key": lambda: config.update(lora_gamma=2.0),
        "unknown empty key": lambda: config.update(lora_gamma=None),
        "half precision": lambda: tensors.update({name: value.half() for name, value in tensors.items()}),
        "rslora by hand": lambda: config.update(use_rslora=not config["use_rslora"]),
        "start by hand": lambda: config.update(init_lora_weights=True),
        "prefix gone": lambda: [tensors.update({name.removeprefix("base_model.model."): tensors.pop(name)}) for name in list(tensors)],
    }
    if how:
        by_hand[how]()
        (folder / "adapter_config.json").write_text(json.dumps(config))
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "adapter_model.safetensors",
                  metadata={"format": "pt"})


def theirs(folder: Path) -> dict[str, torch.Tensor]:
    """The weights after peft's own merge."""
    import peft

    return peft.PeftModel.from_pretrained(base(), str(folder)).merge_and_unload().state_dict()  # type: ignore[no-any-return]


def ours(folder: Path) -> dict[str, torch.Tensor]:
    """The weights after our merge."""
    net = base()
    merge_peft(net, folder, "")
    return net.state_dict()


def outcome(settings: Mapping[str, Any], folder: Path) -> tuple[str, str]:
    """equal, refused, wrong, or that peft itself makes or merges no such folder; with what was said."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            write(folder, settings)
            expected: dict[str, torch.Tensor] | None = theirs(folder)
        except Exception as error:  # peft raises many types for what does not go together
            expected, reason = None, type(error).__name__
        try:
            merged = ours(folder)
        except UserError as error:
            return ("refused" if expected is not None else "peft refuses, so do we"), str(error).replace(str(folder), "FOLDER")
    if expected is None:
        return "peft refuses, we merge", reason
    if set(merged) != set(expected):
        return "wrong", f"other tensors: {sorted(set(merged) ^ set(expected))[:3]}"
    worst = max(float((merged[name].double() - value.double()).abs().max()) for name, value in expected.items())
    return ("equal" if worst <= TOLERANCE else "wrong"), f"largest difference {worst:.2g}"


def usual() -> dict[str, Any]:
    """The first value of every setting."""
    return {name: values[0] for name, values in GRID.items()}


def singles() -> Iterator[dict[str, Any]]:
    """Every value of every setting, all others as usual."""
    yield usual()
    for name, values in GRID.items():
        for value in values[1:]:
            yield usual() | {name: value}


def pairs() -> Iterator[dict[str, Any]]:
    """Every pair of values of two settings, all others as usual."""
    for (first, ones), (second, others) in itertools.combinations(GRID.items(), 2):
        for one, other in itertools.product(ones[1:], others[1:]):
            yield usual() | {first: one, second: other}


def mixtures(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Random values of every setting, most of them usual."""
    generator = random.Random(seed)
    for _ in range(count):
        yield {name: generator.choice(values) if generator.random() < 0.35 else values[0] for name, values in GRID.items()}


def main() -> None:
    """Run the grid, print the counts by setting, store them, exit 1 when a merge was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, help="of the pairs so many, drawn; all when not given")
    parser.add_argument("--mixtures", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS / "peft-grid.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    by_setting: dict[str, Counter[str]] = {name: Counter() for name in GRID}
    wrong: list[dict[str, Any]] = []
    both = list(pairs())
    cases = [*singles(), *(random.Random(0).sample(both, given.pairs) if given.pairs else both), *mixtures(given.mixtures)]
    for number, settings in enumerate(cases):
        with tempfile.TemporaryDirectory() as name:
            answer, said = outcome(settings, Path(name) / "peft")
        counts[answer] += 1
        changed = {setting: value for setting, value in settings.items() if value != GRID[setting][0]}
        for setting in changed:
            by_setting[setting][answer] += 1
        if answer in ("wrong", "peft refuses, we merge"):
            wrong.append({"settings": changed, "outcome": answer, "said": said})
            print(f"{answer}: {changed}: {said}", flush=True)
        if number % 500 == 499:
            print(f"{number + 1} of {len(cases)}: {dict(counts)}", flush=True)
    heads = ("equal", "refused", "wrong", "peft refuses, so do we", "peft refuses, we merge")
    print(f"| setting, away from its usual value | {' | '.join(heads)} |\n|---|" + "---|" * len(heads))
    for setting, row in by_setting.items():
        print(f"| {setting} | {' | '.join(str(row[head]) for head in heads)} |")
    print(f"| all {len(cases)} folders | {' | '.join(str(counts[head]) for head in heads)} |")
    store(given.out, {"facts": facts(peft=version("peft")), "tolerance": TOLERANCE, "folders": len(cases), "counts": dict(counts),
                      "by_setting": {name: dict(row) for name, row in by_setting.items()}, "wrong": wrong})
    sys.exit(1 if counts["wrong"] else 0)


if __name__ == "__main__":
    main()
