"""SegGPT in PyTorch: configuration, image processor and network under Hugging Face's names."""

from model.config import SegGptConfig
from model.processing import SegGptImageProcessor
from model.seggpt import SegGptForImageSegmentation, SegGptModel

__all__ = ["SegGptConfig", "SegGptForImageSegmentation", "SegGptImageProcessor", "SegGptModel"]
