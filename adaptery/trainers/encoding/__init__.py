"""Rows as the model will see them: token ids, and which of them are learned."""

from adaptery.trainers.encoding.encoder import Encoder
from adaptery.trainers.encoding.example import IGNORED, Example

__all__ = ["IGNORED", "Encoder", "Example"]
