"""What a gate compares: models, tokenizer, prompts and recordings, from markers, options and fixtures.

Everything may be imported here but ``plugin.hooks`` and ``plugin.fixtures``.
"""
