"""The engine that runs transformers models, and any ``torch.nn.Module`` that returns logits, in this process.

``core`` and the modules of ``engines`` beside this folder may be imported here. ``engine`` is the way in; each other module is
one step of turning a batch of token ids into log-probabilities, or one fact about a model that decides how it may be run.
"""
