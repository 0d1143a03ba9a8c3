"""A transformer sentence encoder: texts or token ids in, one embedding out."""

from batchd_server.models.text_encoder.encoder import TextEncoder

__all__ = ["TextEncoder"]
