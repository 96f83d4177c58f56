"""Numerics over token ids that the token metrics share: scans, counts, estimators, language models, readers of token files.

NumPy only (SciPy inside functions); `transformer` imports torch when it runs.
"""
