"""The embedded default model: reads lines of handwritten digits, images of varying width."""

from batchd_server.models.digit_lines.model import DigitLines

__all__ = ["DigitLines"]
