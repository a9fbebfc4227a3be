"""Batch files: YAML, JSON and CSV in, a checked `Batch` out, or every problem at once in the user's own words.

Reading and checking only: nothing here opens an image, asks a backend or knows a price.
"""

from hybrid_video.batchfile.loading import SUFFIXES, load_batch, parse_batch
from hybrid_video.batchfile.schema import json_schema
from hybrid_video.batchfile.writing import dump

__all__ = ["SUFFIXES", "dump", "json_schema", "load_batch", "parse_batch"]
