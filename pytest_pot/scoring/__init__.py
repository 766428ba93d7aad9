"""From two models and prompts to divergences: batches, metrics, and the report. ``scorer`` is the public face.

``core``, ``engines``, ``prompts`` and ``baseline`` may be imported here. Nothing here knows of limits or verdicts: a run that
may stop early is given a stopping rule.
"""
