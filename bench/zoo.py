"""Networks that nobody here wrote, as ONNX files: those in the `onnx` wheel, and models of `transformers` made from configurations.

Nothing is downloaded and no weight is trained. What a network costs does not depend on the values, with one exception: the library's
initial weights are so small that in networks without normalisation behind every layer the values shrink to denormal numbers, on which a
processor is slower. Weights are drawn anew, of the size that keeps values as large as they were, as a trained network's are. Files are
made once and kept in a folder outside the repository. `python bench/zoo.py` makes and lists them.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx.backend.test
from platformdirs import user_cache_path

from hwnas.errors import require

FOLDER = user_cache_path("hwnas") / "zoo"
SEED = 0
OPSET = 18  # both exporters write it without converting
DRAWN = "he"  # how weights are drawn
TEXT = "ForSequenceClassification"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A model of the `transformers` library at one of its published sizes, or at one between them.

    Attributes:
        name: unique.
        model: stem of the library's classes, such as `ResNet` of `ResNetConfig`: the family.
        size: height and width of the image in pixels, or the number of tokens.
        config: what differs from the library's default configuration.
        task: how the name of the class ends.
        dynamo: which exporter writes it: the one that traces through `torch.export`, or the older one.
    """

    name: str
    model: str
    size: int
    config: Mapping[str, Any] = field(default_factory=dict)
    task: str = "ForImageClassification"
    dynamo: bool = True

    @property
    def file(self) -> str:
        """Name of its file; it ends in a digest, so that a changed recipe has a new one."""
        return f"{self.name}-{hashlib.sha256(f'{DRAWN} {self!r}'.encode()).hexdigest()[:8]}.onnx"

    @property
    def reads_text(self) -> bool:
        """Whether its input is numbers of words."""
        return self.task == TEXT

    def export(self, path: Path) -> None:
        """Writes the network with random weights."""
        torch, transformers = require("torch"), require("transformers", extra="zoo")
        torch.manual_seed(SEED)
        config = getattr(transformers, f"{self.model}Config")(**self.config)
        network = getattr(transformers, f"{self.model}{self.task}")(config)
        _redraw(network)

        class First(torch.nn.Module):  # type: ignore[misc, name-defined]  # torch is imported where it is used
            def __init__(self) -> None:
                super().__init__()
                self.network = network

            def forward(self, x: Any) -> Any:
                return self.network(x).to_tuple()[0]

        shape = (1, self.size) if self.reads_text else (1, 3, self.size, self.size)
        example = torch.randint(0, 100, shape) if self.reads_text else torch.rand(shape)
        with quiet():
            torch.onnx.export(First().eval(), (example,), path, dynamo=self.dynamo, opset_version=OPSET, external_data=False, verbose=False)


def _redraw(network: Any) -> None:
    """Weights of convolutions as He et al. draw them (2015), those of linear layers for no activation behind them, scales of 1."""
    nn = require("torch").nn
    for module in network.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):  # some families draw theirs around 0
            nn.init.ones_(module.weight)


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters warn of what they trace, in many lines; whether it went well is seen from the file."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def networks(folder: Path = FOLDER) -> list[tuple[str, str, Path]]:
    """Name, family and file of every network that was looked at while carriers and features were made.

    Args:
        folder: where files are kept; what is there already is used.
    """
    return [*wheel(), *made(RECIPES, folder)]


def made(recipes: Sequence[Recipe], folder: Path = FOLDER) -> list[tuple[str, str, Path]]:
    """Name, family and file of networks of `transformers`."""
    return [(recipe.name, recipe.model, exported(recipe, folder)) for recipe in recipes]


def wheel() -> list[tuple[str, str, Path]]:
    """The networks in the `onnx` wheel: architectures of 2012 to 2017, each of whose weights is one number repeated."""
    folder = Path(onnx.backend.test.__file__).parent / "data" / "light"
    names = {path.stem.removeprefix("light_").removeprefix("bvlc_"): path for path in sorted(folder.glob("*.onnx"))}
    return [(name, name.rstrip("0123456789").removesuffix("_v"), path) for name, path in names.items()]


def exported(recipe: Recipe, folder: Path) -> Path:
    """The file of a recipe, made where it is missing."""
    path = folder / recipe.file
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        recipe.export(part)
        part.rename(path)
    return path


def _stages(depths: Sequence[int], widths: Sequence[int], **more: Any) -> dict[str, Any]:
    return {"depths": list(depths), "hidden_sizes": list(widths), **more}


def _encoder(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    return {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 4 * width, **more}


def _efficient(width: float, depth: float, head: int) -> dict[str, Any]:
    return {"width_coefficient": width, "depth_coefficient": depth, "hidden_dim": head}


def _windows(width: int, depths: Sequence[int], heads: Sequence[int], window: int, size: int) -> dict[str, Any]:
    return {"embed_dim": width, "depths": list(depths), "num_heads": list(heads), "window_size": window, "image_size": size}


_BASIC = (64, 128, 256, 512)
_BOTTLENECK = (256, 512, 1024, 2048)
_ATTO = (40, 80, 160, 320)
_XXS = {"neck_hidden_sizes": [16, 16, 24, 48, 64, 80, 320], "hidden_sizes": [64, 80, 96], "expand_ratio": 2.0}
_LEVIT_192 = {"hidden_sizes": [192, 288, 384], "num_attention_heads": [3, 5, 6], "depths": [4, 4, 4], "key_dim": [32, 32, 32]}

# Networks to measure.
RECIPES: tuple[Recipe, ...] = (
    Recipe(name="resnet18-224", model="ResNet", size=224, config=_stages([2, 2, 2, 2], _BASIC, layer_type="basic")),
    Recipe(name="resnet26-192", model="ResNet", size=192, config=_stages([2, 2, 2, 2], _BOTTLENECK)),
    Recipe(name="resnet50-160", model="ResNet", size=160, config=_stages([3, 4, 6, 3], _BOTTLENECK)),
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
    Recipe(name="efficientnet-b0-224", model="EfficientNet", size=224, config=_efficient(1.0, 1.0, 1280), dynamo=False),
    Recipe(name="efficientnet-b1-160", model="EfficientNet", size=160, config=_efficient(1.0, 1.1, 1280)),
    Recipe(name="efficientnet-b2-256", model="EfficientNet", size=256, config=_efficient(1.1, 1.2, 1408), dynamo=False),
    Recipe(name="convnext-tiny-224", model="ConvNext", size=224),
    Recipe(name="convnext-nano-192", model="ConvNext", size=192, config=_stages([2, 2, 8, 2], [80, 160, 320, 640])),
    Recipe(name="convnext-atto-256", model="ConvNext", size=256, config=_stages([2, 2, 6, 2], _ATTO), dynamo=False),
    Recipe(name="convnextv2-atto-224", model="ConvNextV2", size=224, config=_stages([2, 2, 6, 2], _ATTO)),
    Recipe(name="convnextv2-pico-160", model="ConvNextV2", size=160, config=_stages([2, 2, 6, 2], _BASIC), dynamo=False),
    Recipe(name="vit-tiny-224", model="ViT", size=224, config=_encoder(192, 12, 3)),
    Recipe(name="vit-small-224", model="ViT", size=224, config=_encoder(384, 12, 6)),
    Recipe(name="vit-base-4-160", model="ViT", size=160, config=_encoder(768, 4, 12, image_size=160), dynamo=False),
    Recipe(name="deit-tiny-224", model="DeiT", size=224, config=_encoder(192, 12, 3)),
    Recipe(name="deit-small-6-192", model="DeiT", size=192, config=_encoder(384, 6, 6, image_size=192), dynamo=False),
    Recipe(name="swin-tiny-224", model="Swin", size=224, dynamo=False),
    Recipe(name="swin-narrow-160", model="Swin", size=160, config=_windows(48, [2, 2, 4, 2], [2, 4, 8, 16], 5, 160), dynamo=False),
    Recipe(name="swinv2-shallow-256", model="Swinv2", size=256, config=_windows(96, [2, 2, 2, 2], [3, 6, 12, 24], 8, 256)),
    Recipe(name="levit-128s-224", model="Levit", size=224),
    Recipe(name="levit-192-224", model="Levit", size=224, config=_LEVIT_192, dynamo=False),
    Recipe(name="mobilevit-s-256", model="MobileViT", size=256),
    Recipe(name="mobilevit-xxs-192", model="MobileViT", size=192, config={**_XXS, "image_size": 192}),
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
    Recipe(name="dinov2-small-6-224", model="Dinov2", size=224, config=_encoder(384, 6, 6, image_size=224)),
    Recipe(name="bert-mini-128", model="Bert", size=128, config=_encoder(256, 4, 4), task=TEXT),
    Recipe(name="bert-small-64", model="Bert", size=64, config=_encoder(512, 4, 8), task=TEXT, dynamo=False),
)

# Networks of other families, chosen for being exportable before any of them was measured or predicted; nothing was changed because of them.
FRESH: tuple[Recipe, ...] = (
    Recipe(name="pplcnet-1.0-224", model="PPLCNet", size=224),
    Recipe(name="pplcnet-0.5-160", model="PPLCNet", size=160, config={"scale": 0.5}, dynamo=False),
    Recipe(name="rtdetr-resnet-192", model="RTDetrResNet", size=192, task="Backbone"),
    Recipe(name="dinov3-convnext-192", model="DINOv3ConvNext", size=192, task="Model"),
    Recipe(name="beit-tiny-224", model="Beit", size=224, config=_encoder(192, 12, 3)),
    Recipe(name="data2vec-6-224", model="Data2VecVision", size=224, config=_encoder(384, 6, 6), dynamo=False),
    Recipe(name="vit-msn-6-160", model="ViTMSN", size=160, config=_encoder(384, 6, 6, image_size=160)),
    Recipe(name="dinov2-registers-6-224", model="Dinov2WithRegisters", size=224, config=_encoder(384, 6, 6, image_size=224)),
    Recipe(name="dinov3-vit-6-224", model="DINOv3ViT", size=224, config=_encoder(384, 6, 6, image_size=224), task="Model"),
    Recipe(name="hiera-tiny-224", model="Hiera", size=224, dynamo=False),
    Recipe(name="ijepa-6-160", model="IJepa", size=160, config=_encoder(384, 6, 6, image_size=160, patch_size=16), dynamo=False),
    Recipe(name="clip-vision-6-224", model="CLIP", size=224, config={"vision_config": _encoder(384, 6, 6, patch_size=32)}, dynamo=False),
    Recipe(name="siglip-6-160", model="Siglip", size=160, config={"vision_config": _encoder(384, 6, 6, image_size=160, patch_size=16)}),
    Recipe(name="aimv2-6-224", model="Aimv2Vision", size=224, config=_encoder(384, 6, 6, image_size=224, patch_size=16), task="Model"),
    Recipe(
        name="vitdet-6-224",
        model="VitDet",
        size=224,
        config={**_encoder(384, 6, 6, image_size=224, window_size=7, window_block_indices=[0, 1, 3, 4])},
        task="Model",
        dynamo=False,
    ),
    Recipe(
        name="glpn-b0-192",
        model="GLPN",
        size=192,
        config=_stages([2, 2, 2, 2], [32, 64, 160, 256]),
        task="ForDepthEstimation",
        dynamo=False,
    ),
    Recipe(
        name="dpt-6-192",
        model="DPT",
        size=192,
        config=_encoder(
            384, 6, 6, image_size=192, backbone_out_indices=[1, 2, 4, 5], neck_hidden_sizes=[48, 96, 192, 384], fusion_hidden_size=64
        ),
        task="ForDepthEstimation",
    ),
    Recipe(
        name="yolos-tiny-6-192",
        model="Yolos",
        size=192,
        config=_encoder(192, 6, 3, image_size=[192, 192], num_detection_tokens=50),
        task="ForObjectDetection",
    ),
    Recipe(
        name="swin2sr-64",
        model="Swin2SR",
        size=64,
        config={"depths": [2, 2], "num_heads": [6, 6], "embed_dim": 96},
        task="ForImageSuperResolution",
        dynamo=False,
    ),
    Recipe(
        name="distilbert-4-128",
        model="DistilBert",
        size=128,
        config={"dim": 384, "n_layers": 4, "n_heads": 6, "hidden_dim": 1536},
        task=TEXT,
    ),
    Recipe(name="albert-6-128", model="Albert", size=128, config=_encoder(384, 6, 6), task=TEXT, dynamo=False),
    Recipe(name="electra-small-6-128", model="Electra", size=128, config=_encoder(256, 6, 4), task=TEXT),
    Recipe(name="mobilebert-8-128", model="MobileBert", size=128, config={"num_hidden_layers": 8}, task=TEXT, dynamo=False),
    Recipe(name="squeezebert-4-128", model="SqueezeBert", size=128, config=_encoder(384, 4, 6, embedding_size=384), task=TEXT),
    Recipe(name="deberta-4-96", model="DebertaV2", size=96, config=_encoder(384, 4, 6, vocab_size=30_000), task=TEXT, dynamo=False),
    Recipe(
        name="modernbert-4-128",
        model="ModernBert",
        size=128,
        config={"hidden_size": 384, "num_hidden_layers": 4, "num_attention_heads": 6, "intermediate_size": 576},
        task=TEXT,
    ),
    Recipe(name="roformer-4-128", model="RoFormer", size=128, config=_encoder(384, 4, 6), task=TEXT, dynamo=False),
    Recipe(name="convbert-4-128", model="ConvBert", size=128, config=_encoder(384, 4, 6), task=TEXT),
    Recipe(
        name="funnel-128",
        model="Funnel",
        size=128,
        config={"block_sizes": [2, 2, 2], "d_model": 256, "n_head": 4, "d_head": 64, "d_inner": 1024},
        task=TEXT,
        dynamo=False,
    ),
)

# One of every family, with few layers of real widths and small inputs: networks to test with.
SHALLOW: tuple[Recipe, ...] = (
    Recipe(name="resnet", model="ResNet", size=64, config=_stages([1, 1, 1, 1], _BOTTLENECK), dynamo=False),
    Recipe(
        name="regnet",
        model="RegNet",
        size=64,
        config=_stages([1, 1, 1, 1], [64, 144, 320, 784], groups_width=16, layer_type="y"),
        dynamo=False,
    ),
    Recipe(name="mobilenet-v1", model="MobileNetV1", size=96, dynamo=False),
    Recipe(name="mobilenet-v2", model="MobileNetV2", size=96, dynamo=False),
    Recipe(name="efficientnet", model="EfficientNet", size=64, config=_efficient(1.0, 0.1, 1280), dynamo=False),
    Recipe(name="convnext", model="ConvNext", size=64, config=_stages([1, 1, 1, 1], [96, 192, 384, 768]), dynamo=False),
    Recipe(name="convnextv2", model="ConvNextV2", size=64, config=_stages([1, 1, 1, 1], _BASIC), dynamo=False),
    Recipe(name="vit", model="ViT", size=64, config=_encoder(192, 2, 3, image_size=64)),
    Recipe(name="deit", model="DeiT", size=64, config=_encoder(384, 1, 6, image_size=64), dynamo=False),
    Recipe(name="swin", model="Swin", size=128, config=_windows(96, [2, 1, 1, 1], [3, 6, 12, 24], 4, 128), dynamo=False),
    Recipe(name="swinv2", model="Swinv2", size=128, config=_windows(96, [1, 1, 1, 1], [3, 6, 12, 24], 4, 128), dynamo=False),
    Recipe(name="levit", model="Levit", size=64, config={"depths": [1, 1, 1], "image_size": 64}, dynamo=False),
    Recipe(name="mobilevit", model="MobileViT", size=64, config={**_XXS, "image_size": 64}, dynamo=False),
    Recipe(name="mobilevitv2", model="MobileViTV2", size=64, config={"image_size": 64, "n_attn_blocks": [1, 1, 1]}),
    Recipe(name="poolformer", model="PoolFormer", size=64, config={"depths": [1, 1, 1, 1]}, dynamo=False),
    Recipe(name="pvt", model="Pvt", size=64, config={"depths": [1, 1, 1, 1], "image_size": 64}, dynamo=False),
    Recipe(name="pvtv2", model="PvtV2", size=64, config={"depths": [1, 1, 1, 1], "image_size": 64}, dynamo=False),
    Recipe(name="bit", model="Bit", size=64, config=_stages([1, 1, 1, 1], [128, 256, 512, 1024])),
    Recipe(name="focalnet", model="FocalNet", size=64, config={"depths": [1, 1, 1, 1], "image_size": 64}, dynamo=False),
    Recipe(name="segformer", model="Segformer", size=64, config={"depths": [1, 1, 1, 1]}, dynamo=False),
    Recipe(name="swiftformer", model="SwiftFormer", size=64, config={"depths": [1, 1, 1, 1]}, dynamo=False),
    Recipe(name="hgnetv2", model="HGNetV2", size=64, dynamo=False),
    Recipe(name="textnet", model="TextNet", size=64, dynamo=False),
    Recipe(name="cvt", model="Cvt", size=64, config={"depth": [1, 2, 3]}, dynamo=False),
    Recipe(name="dinov2", model="Dinov2", size=56, config=_encoder(384, 1, 6, image_size=56), dynamo=False),
    Recipe(name="bert", model="Bert", size=32, config=_encoder(256, 2, 4, vocab_size=1000), task=TEXT, dynamo=False),
)

# Families whose operators no carrier has (sums along an axis, places of the largest, scatters, Fourier transforms): such networks are
# read and their kernels foretold; the share of an estimate that stands on these kernels is said not to be covered.
UNCOVERED: tuple[Recipe, ...] = (
    Recipe(name="roberta", model="Roberta", size=16, config=_encoder(64, 2, 4, vocab_size=500), task=TEXT),
    Recipe(
        name="gpt2",
        model="GPT2",
        size=16,
        config={"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 500, "pad_token_id": 0},
        task=TEXT,
    ),
    Recipe(
        name="fnet",
        model="FNet",
        size=16,
        config={"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 256, "vocab_size": 500},
        task=TEXT,
    ),
    Recipe(name="beit", model="Beit", size=64, config=_encoder(64, 2, 4, image_size=64, use_relative_position_bias=True), dynamo=False),
)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Makes the networks and lists them.")
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    folder = parser.parse_args().folder
    for name, family, path in [*networks(folder), *made(FRESH, folder)]:
        print(f"{name:24s} {family:14s} {path.stat().st_size / 1e6:6.1f} MB  {path}")
