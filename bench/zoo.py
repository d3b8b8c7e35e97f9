"""Networks that nobody here wrote, as ONNX files: those in the `onnx` wheel, and `transformers` models made from their configurations.

Nothing is downloaded and no weight is trained: what a network costs does not depend on the values. Files are made once and kept in a
folder, which no repository holds.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx.backend.test
from platformdirs import user_cache_path

from hwnas.errors import require

SEED = 0
OPSET = {True: 18, False: 17}  # by exporter: what its own operators are written in, so that nothing is converted


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A model of the `transformers` library at one of its published sizes, or between them.

    Attributes:
        name: unique; ends in the input's size.
        model: stem of the library's classes, such as `ResNet` of `ResNetConfig`; the family.
        size: height and width of the image in pixels, or the number of tokens.
        config: what differs from the library's default configuration.
        task: what follows the stem in the name of the class.
        dynamo: exporter: the one that traces through `torch.export`, or the older one.
    """

    name: str
    model: str
    size: int
    config: Mapping[str, Any] = field(default_factory=dict)
    task: str = "ForImageClassification"
    dynamo: bool = True

    def export(self, path: Path) -> None:
        """Writes the network with random weights."""
        torch, transformers = require("torch"), require("transformers", extra="zoo")
        torch.manual_seed(SEED)
        config = getattr(transformers, f"{self.model}Config")(**self.config)
        network = getattr(transformers, f"{self.model}{self.task}")(config).eval()

        class Logits(torch.nn.Module):  # type: ignore[misc, name-defined]  # torch is imported where it is used
            def forward(self, x: Any) -> Any:
                return network(x).logits

        module = Logits()
        module.network = network
        text = self.task == "ForSequenceClassification"
        example = torch.randint(0, config.vocab_size, (1, self.size)) if text else torch.rand(1, 3, self.size, self.size)
        with quiet():
            torch.onnx.export(
                module, (example,), path, dynamo=self.dynamo, opset_version=OPSET[self.dynamo], external_data=False, verbose=False
            )


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters report their progress, and warn of what they trace, in many lines: none of it matters to a file that is checked."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _stages(depths: list[int], widths: list[int], **more: Any) -> dict[str, Any]:
    return {"depths": depths, "hidden_sizes": widths, **more}


def _encoder(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 4 * width}
    return {**sizes, **more}


_BOTTLENECKS = [256, 512, 1024, 2048]
_MOBILEVIT_XXS = {"neck_hidden_sizes": [16, 16, 24, 48, 64, 80, 320], "hidden_sizes": [64, 80, 96], "expand_ratio": 2.0}
_LEVIT_192 = {
    "hidden_sizes": [192, 288, 384],
    "num_attention_heads": [3, 5, 6],
    "depths": [4, 4, 4],
    "key_dim": [32, 32, 32],
}

FULL: tuple[Recipe, ...] = (
    Recipe(name="resnet18-224", model="ResNet", size=224, config=_stages([2, 2, 2, 2], [64, 128, 256, 512], layer_type="basic")),
    Recipe(name="resnet26-192", model="ResNet", size=192, config=_stages([2, 2, 2, 2], _BOTTLENECKS)),
    Recipe(name="resnet50-160", model="ResNet", size=160, config=_stages([3, 4, 6, 3], _BOTTLENECKS)),
    Recipe(
        name="regnet-x-400mf-224",
        model="RegNet",
        size=224,
        config=_stages([1, 2, 7, 12], [32, 64, 160, 384], groups_width=16, layer_type="x"),
    ),
    Recipe(
        name="regnet-y-400mf-192",
        model="RegNet",
        size=192,
        config=_stages([1, 3, 6, 6], [48, 104, 208, 440], groups_width=8, layer_type="y"),
    ),
    Recipe(
        name="regnet-y-800mf-256",
        model="RegNet",
        size=256,
        config=_stages([1, 3, 8, 2], [64, 144, 320, 784], groups_width=16, layer_type="y"),
    ),
    Recipe(name="mobilenet-v1-1.0-224", model="MobileNetV1", size=224),
    Recipe(name="mobilenet-v1-0.5-160", model="MobileNetV1", size=160, config={"depth_multiplier": 0.5}),
    Recipe(name="mobilenet-v2-1.0-224", model="MobileNetV2", size=224),
    Recipe(name="mobilenet-v2-0.5-192", model="MobileNetV2", size=192, config={"depth_multiplier": 0.5}),
    Recipe(name="mobilenet-v2-1.4-160", model="MobileNetV2", size=160, config={"depth_multiplier": 1.4}, dynamo=False),
    Recipe(
        name="efficientnet-b0-224",
        model="EfficientNet",
        size=224,
        config={"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280},
        dynamo=False,
    ),
    Recipe(
        name="efficientnet-b1-160",
        model="EfficientNet",
        size=160,
        config={"width_coefficient": 1.0, "depth_coefficient": 1.1, "hidden_dim": 1280},
    ),
    Recipe(
        name="efficientnet-b2-256",
        model="EfficientNet",
        size=256,
        config={"width_coefficient": 1.1, "depth_coefficient": 1.2, "hidden_dim": 1408},
        dynamo=False,
    ),
    Recipe(name="convnext-tiny-224", model="ConvNext", size=224),
    Recipe(name="convnext-nano-192", model="ConvNext", size=192, config=_stages([2, 2, 8, 2], [80, 160, 320, 640])),
    Recipe(name="convnext-atto-256", model="ConvNext", size=256, config=_stages([2, 2, 6, 2], [40, 80, 160, 320]), dynamo=False),
    Recipe(name="convnextv2-atto-224", model="ConvNextV2", size=224, config=_stages([2, 2, 6, 2], [40, 80, 160, 320])),
    Recipe(name="convnextv2-pico-160", model="ConvNextV2", size=160, config=_stages([2, 2, 6, 2], [64, 128, 256, 512]), dynamo=False),
    Recipe(name="vit-tiny-224", model="ViT", size=224, config=_encoder(192, 12, 3)),
    Recipe(name="vit-small-224", model="ViT", size=224, config=_encoder(384, 12, 6)),
    Recipe(name="vit-base-4-160", model="ViT", size=160, config=_encoder(768, 4, 12, image_size=160), dynamo=False),
    Recipe(name="deit-tiny-224", model="DeiT", size=224, config=_encoder(192, 12, 3)),
    Recipe(name="deit-small-6-192", model="DeiT", size=192, config=_encoder(384, 6, 6, image_size=192), dynamo=False),
    Recipe(name="swin-tiny-224", model="Swin", size=224, dynamo=False),
    Recipe(
        name="swin-narrow-160",
        model="Swin",
        size=160,
        config={"embed_dim": 48, "depths": [2, 2, 4, 2], "num_heads": [2, 4, 8, 16], "image_size": 160},
        dynamo=False,
    ),
    Recipe(
        name="swinv2-shallow-256",
        model="Swinv2",
        size=256,
        config={"embed_dim": 96, "depths": [2, 2, 2, 2], "num_heads": [3, 6, 12, 24], "image_size": 256, "window_size": 8},
    ),
    Recipe(name="levit-128s-224", model="Levit", size=224),
    Recipe(name="levit-192-224", model="Levit", size=224, config=_LEVIT_192, dynamo=False),
    Recipe(name="mobilevit-s-256", model="MobileViT", size=256),
    Recipe(name="mobilevit-xxs-192", model="MobileViT", size=192, config={**_MOBILEVIT_XXS, "image_size": 192}),
    Recipe(name="mobilevitv2-1.0-192", model="MobileViTV2", size=192, config={"image_size": 192}),
    Recipe(name="poolformer-s12-224", model="PoolFormer", size=224),
    Recipe(name="poolformer-narrow-160", model="PoolFormer", size=160, config={"hidden_sizes": [48, 96, 192, 384]}, dynamo=False),
    Recipe(name="pvt-tiny-224", model="Pvt", size=224),
    Recipe(name="pvtv2-b0-224", model="PvtV2", size=224),
    Recipe(name="pvtv2-b1-160", model="PvtV2", size=160, config={"hidden_sizes": [64, 128, 320, 512], "image_size": 160}, dynamo=False),
    Recipe(name="bit-50-160", model="Bit", size=160),
    Recipe(name="bit-26-narrow-192", model="Bit", size=192, config=_stages([2, 2, 2, 2], [128, 256, 512, 1024])),
    Recipe(name="focalnet-tiny-224", model="FocalNet", size=224, dynamo=False),
    Recipe(name="focalnet-narrow-192", model="FocalNet", size=192, config={"embed_dim": 64, "depths": [2, 2, 2, 2], "image_size": 192}),
    Recipe(name="segformer-b0-256", model="Segformer", size=256),
    Recipe(name="swiftformer-xs-224", model="SwiftFormer", size=224),
    Recipe(name="hgnetv2-b0-224", model="HGNetV2", size=224),
    Recipe(name="textnet-224", model="TextNet", size=224),
    Recipe(name="cvt-13-192", model="Cvt", size=192),
    Recipe(name="dinov2-small-6-224", model="Dinov2", size=224, config={**_encoder(384, 6, 6), "image_size": 224}),
    Recipe(name="bert-mini-128", model="Bert", size=128, config=_encoder(256, 4, 4), task="ForSequenceClassification"),
    Recipe(name="bert-small-64", model="Bert", size=64, config=_encoder(512, 4, 8), task="ForSequenceClassification", dynamo=False),
)


def networks(folder: Path, recipes: tuple[Recipe, ...] = FULL) -> list[tuple[str, str, Path]]:
    """The networks as files: name, family and path of each.

    Args:
        folder: where files are kept; what is there already is used.
        recipes: which `transformers` models; the networks in the `onnx` wheel come on top.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [*wheel(), *((recipe.name, recipe.model, exported(recipe, folder)) for recipe in recipes)]


def wheel() -> list[tuple[str, str, Path]]:
    """The networks in the `onnx` wheel: real architectures of 2012-2017 whose weights are one constant each."""
    data = Path(onnx.backend.test.__file__).parent / "data" / "light"
    names = sorted(path.stem.removeprefix("light_").removeprefix("bvlc_") for path in data.glob("*.onnx"))
    by_name = {path.stem.removeprefix("light_").removeprefix("bvlc_"): path for path in data.glob("*.onnx")}
    return [(name, name.rstrip("0123456789_v"), by_name[name]) for name in names]


def exported(recipe: Recipe, folder: Path) -> Path:
    """The file of a recipe, made where it is missing; a name ends in a digest of the recipe, so that a changed one is made anew."""
    import hashlib

    digest = hashlib.sha256(repr(recipe).encode()).hexdigest()[:8]
    path = folder / f"{recipe.name}-{digest}.onnx"
    if not path.exists():
        part = path.with_suffix(".part")
        recipe.export(part)
        part.rename(path)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Makes the networks and lists them.")
    parser.add_argument("folder", type=Path, nargs="?", default=user_cache_path("hwnas") / "zoo")
    for name, family, path in networks(parser.parse_args().folder):
        print(name, family, path, f"{os.path.getsize(path) / 1e6:.1f} MB", file=sys.stdout, flush=True)
