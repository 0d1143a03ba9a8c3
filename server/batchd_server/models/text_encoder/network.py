"""The device half of the sentence encoder: a transformers model from local safetensors, and pooling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers

from batchd_server.models.host_allocator import keep_freed_memory
from batchd_server.models.packed_linear import pack_linears
from batchd_server.models.spec import Array
from batchd_server.models.text_encoder import ragged_attention
from batchd_server.models.text_encoder.folder import EncoderFolder, Pooling
from batchd_server.models.text_encoder.ragged_attention import Spans


class EncoderNetwork(torch.nn.Module):
    """The transformer on its device, in float32. Shapes: B items, L tokens, D dimensions."""

    def __init__(self, folder: EncoderFolder, device: torch.device) -> None:
        super().__init__()
        self.folder = folder
        self.device = device
        # The default attention is the fused one where the architecture has it; on the CPU it was 2 to 4 % faster than
        # the eager one on batches of 512 tokens, and equally exact.
        with _quiet():
            model: Any = transformers.AutoModel.from_pretrained(
                folder.path,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
            )
        if model.config._attn_implementation == "sdpa":
            model.set_attn_implementation(ragged_attention.IMPLEMENTATION)  # the same, and for ragged batches too
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # made for another task; its result would be thrown away
        self._model = model.eval().to(device)
        if device.type == "cpu":
            keep_freed_memory()
            pack_linears(self._model)

    def to_device(self, array: Array) -> torch.Tensor:
        """Copy a host array to the device, through pinned memory on CUDA."""
        host = torch.from_numpy(array)
        if self.device.type == "cuda":
            return host.pin_memory().to(self.device, non_blocking=True)
        return host.to(self.device)

    def forward(self, input_ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return embeddings (B, D) of ids (B, L); `mask` (B, L) is 1 where a token counts, None where all do."""
        hidden: torch.Tensor = self._model(input_ids=input_ids, attention_mask=mask).last_hidden_state
        pooled = self._pool(hidden, mask)
        return torch.nn.functional.normalize(pooled, dim=1) if self.folder.normalize else pooled

    def embed_ragged(self, input_ids: torch.Tensor, positions: torch.Tensor, spans: Spans) -> torch.Tensor:
        """Return embeddings (B, D) of ids (1, T) that lie end to end, in the order of `spans`."""
        found: Any = self._model(input_ids=input_ids, position_ids=positions, spans=spans)
        hidden: torch.Tensor = found.last_hidden_state[0]
        if self.folder.pooling is Pooling.CLS:
            pooled = hidden[spans.offsets[:-1]]
        else:
            pooled = torch.segment_reduce(hidden, "mean", lengths=spans.offsets.diff(), axis=0)
        return torch.nn.functional.normalize(pooled, dim=1) if self.folder.normalize else pooled

    def _pool(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if self.folder.pooling is Pooling.CLS:
            return hidden[:, 0]
        if mask is None:
            return hidden.mean(dim=1)
        weights = mask.to(hidden.dtype)
        return torch.bmm(weights.unsqueeze(1), hidden).squeeze(1) / weights.sum(dim=1, keepdim=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from drawing a progress bar and reporting the unused head into the daemon's log."""
    transformers_logging: Any = transformers.utils.logging
    verbosity = transformers_logging.get_verbosity()
    had_progress_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_progress_bar:
            transformers_logging.enable_progress_bar()
