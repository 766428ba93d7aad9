"""Write SmolLM2-135M, and a copy of it with weights rounded to 8 bits, to the folders models/base and models/base-int8.

The tutorial gates these. They take 540 MB each.
"""

from __future__ import annotations

import sys
from pathlib import Path

import smollm2

MODELS = {"base": smollm2.reference, "base-int8": smollm2.int8}


def write(target: Path) -> None:
    """Write each of the models to a folder in ``target``."""
    for name, make in MODELS.items():
        model, tokenizer = make()
        model.save_pretrained(target / name)
        tokenizer.save_pretrained(target / name)


if __name__ == "__main__":
    write(Path("models"))
    sys.stdout.write(f"wrote {', '.join(f'models/{name}' for name in MODELS)}\n")
