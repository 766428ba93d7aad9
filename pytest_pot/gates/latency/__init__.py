"""The gate on latency and memory: what is timed, the stopwatch, the statistics, and the message of a failure.

It imports what ``gates`` may import, and nothing from ``gates.verdict``.
"""
