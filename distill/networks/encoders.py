"""Networks of other libraries seen as timm sees a network: features, head, classifier. transformers' encoders, torchvision's ShuffleNet.

Owns: TransformersNet and building one from its JSON config, ShuffleNet, which timm lacks. Does not own: reading weights (teachers.py,
students.py).
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from torch import Tensor, nn

from distill.networks.encoder_folder import check_config
from runtimes.errors import USAGE, UserError

TokenPooling = Literal["auto", "pooler", "cls", "mean", "cls+mean"]
PREFIX = "transformers/"  # of ModelSpec.arch
TORCHVISION = "torchvision/"
CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")  # names of the parameter
SHUFFLENETS = tuple(f"{TORCHVISION}shufflenet_v2_x{width}" for width in ("0_5", "1_0", "1_5", "2_0"))


def pool_tokens(tokens: Tensor, before_patches: int, pooling: TokenPooling) -> Tensor:
    """Tokens (B, T, D) to one vector an image: the first one, the mean of those of patches, or the two side by side."""
    patches = tokens[:, before_patches:].mean(dim=1) if pooling != "cls" else tokens[:, 0]
    return torch.cat((tokens[:, 0], patches), dim=1) if pooling == "cls+mean" else patches


class TransformersNet(nn.Module):
    """An encoder, how its answer is pooled, and a linear classifier behind it.

    pooling: auto: what the encoder itself pools, else the mean of its tokens; pooler, cls, mean (of the tokens of patches), or cls+mean.
    """

    def __init__(self, encoder: nn.Module, width: int = 0, outputs: int = 0, pooling: TokenPooling = "auto") -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.resamples = "interpolate_pos_encoding" in inspect.signature(encoder.forward).parameters
        self.classifier: nn.Module = nn.Linear(width, outputs) if outputs else nn.Identity()

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, h, w) to pooled features (B, D)."""
        more: dict[str, Any] = {"interpolate_pos_encoding": True} if self.resamples and self._of_another_size(pixels) else {}
        answer = self.encoder(pixel_values=pixels, **more)
        summary = getattr(answer, "pooler_output", None)
        if self.pooling == "pooler" or (self.pooling == "auto" and summary is not None):
            if summary is None:
                raise UserError(f"{type(self.encoder).__name__} pools nothing itself; take cls or mean")
            return summary.flatten(1)  # type: ignore[no-any-return]
        last: Tensor = answer.last_hidden_state
        if last.ndim == 4:
            return last.mean(dim=(2, 3))
        if self.pooling == "auto":
            return last.mean(dim=1)
        return pool_tokens(last, self._tokens_before_patches(pixels, last.shape[1]), self.pooling)

    @property
    def unpooled(self) -> bool:
        """Whether the encoder has a place for a pooling layer and was published without its weights."""
        return hasattr(self.encoder, "pooler") and self.encoder.pooler is None

    @property
    def has_class_token(self) -> bool:
        """Whether the first token speaks for the whole image; in Swin, SigLIP or I-JEPA it is a patch like any other."""
        return any(name.rpartition(".")[2] in CLASS_TOKENS for name, _ in self.encoder.named_parameters())

    def _of_another_size(self, pixels: Tensor) -> bool:
        """Whether images are not of the size that the encoder's positions were learnt for."""
        own = getattr(self.encoder.config, "image_size", None)
        sides = tuple(own) if isinstance(own, list | tuple) else (own, own)
        return own is not None and tuple(pixels.shape[2:]) != sides

    def _tokens_before_patches(self, pixels: Tensor, count: int) -> int:
        """How many tokens stand before those of patches: a class token, a distillation token, registers."""
        patch = getattr(self.encoder.config, "patch_size", None)
        if not isinstance(patch, int):
            return 0
        return max(count - (pixels.shape[2] // patch) * (pixels.shape[3] // patch), 0)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to scores, or as they are."""
        return features if pre_logits else self.classifier(features)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels to scores, or to features while there is no classifier."""
        return self.forward_head(self.forward_features(pixels))

    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.classifier


def from_config(arch: str, outputs: int, config: dict[str, Any], features: int, pooling: TokenPooling = "auto",
                pooler: bool = True) -> TransformersNet:
    """An encoder with random weights from the config of its model type; features: width of what it answers, after its pooling.

    pooler: False for one that was published without the weights of its pooling layer.
    """
    try:
        import transformers
    except ModuleNotFoundError:
        raise UserError(f"{arch} needs transformers; pip install 'rd-distill[teachers]'") from None
    try:
        configuration: Any = transformers.AutoConfig.for_model(
            arch.removeprefix(PREFIX), **{k: v for k, v in config.items() if k != "model_type"})
        check_config(configuration.to_dict(), f"the config of {arch}")  # with what it takes where nothing is said
        more = {} if pooler else {"add_pooling_layer": False}
        encoder = transformers.AutoModel.from_config(configuration, trust_remote_code=False, **more)
    except UserError:
        raise
    except Exception as error:  # transformers raises many types for a config that fits no network
        raise UserError(f"transformers cannot make {arch} ({type(error).__name__}: {str(error).strip().split(chr(10))[0][:160]}); the "
                        "folder was changed, or written with another version") from None
    return TransformersNet(encoder, features, outputs, pooling)


class ShuffleNet(nn.Module):
    """torchvision's ShuffleNet V2 (Ma et al. 2018) behind timm's three methods."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*(getattr(net, name) for name in ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5")))
        self.fc: Any = net.fc

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, h, w) to maps (B, D, h / 32, w / 32)."""
        return self.body(pixels)  # type: ignore[no-any-return]

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps to pooled features (B, D), or to scores."""
        pooled = features.mean((2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels to scores."""
        return self.forward_head(self.forward_features(pixels))

    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.fc  # type: ignore[no-any-return]


def from_torchvision(arch: str, outputs: int) -> ShuffleNet:
    """A ShuffleNet V2 with random weights by its name, such as torchvision/shufflenet_v2_x1_0."""
    if arch not in SHUFFLENETS:
        raise UserError(f"of torchvision only {', '.join(SHUFFLENETS)} are students; found {arch}", USAGE)
    from torchvision import models

    return ShuffleNet(getattr(models, arch.removeprefix(TORCHVISION))(num_classes=outputs))
