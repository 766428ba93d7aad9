"""The texts that models are compared on: prompts, the built-in suite, prompts drawn by a key, and their token ids.

``core`` and ``engines`` may be imported here.
"""

from pytest_pot.prompts.added_tokens import added_token_prompts
from pytest_pot.prompts.builtin import builtin_prompts
from pytest_pot.prompts.jsonl import load_prompts

__all__ = ["added_token_prompts", "builtin_prompts", "load_prompts"]
