"""A vision encoder of transformers seen as timm sees a network: features, head, classifier; rebuilt from its JSON config.

Owns: TransformersNet and building one from a config. Does not own: downloading or reading weights (teachers.py).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from runtimes.errors import UserError

PREFIX = "transformers/"  # of ModelSpec.arch


class TransformersNet(nn.Module):
    """An encoder, its pooled output (else the mean of its tokens), and a linear classifier behind it."""

    def __init__(self, encoder: nn.Module, width: int = 0, outputs: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier: nn.Module = nn.Linear(width, outputs) if outputs else nn.Identity()

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, h, w) to pooled output (B, D), or tokens averaged."""
        answer = self.encoder(pixel_values=pixels)
        summary = getattr(answer, "pooler_output", None)
        if summary is not None:
            return summary.flatten(1)  # type: ignore[no-any-return]
        last: Tensor = answer.last_hidden_state
        return last.mean(dim=(2, 3)) if last.ndim == 4 else last.mean(dim=1)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to scores, or as they are."""
        return features if pre_logits else self.classifier(features)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels to scores, or to features while there is no classifier."""
        return self.forward_head(self.forward_features(pixels))

    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.classifier


def from_config(arch: str, outputs: int, config: dict[str, Any], features: int) -> TransformersNet:
    """An encoder with random weights from the config of its model type; features: width of what it answers."""
    try:
        import transformers
    except ModuleNotFoundError:
        raise UserError(f"{arch} needs transformers; pip install 'rd-distill[teachers]'") from None
    held: Any = transformers.AutoConfig.for_model(arch.removeprefix(PREFIX), **{k: v for k, v in config.items() if k != "model_type"})
    return TransformersNet(transformers.AutoModel.from_config(held), features, outputs)
