"""GenEval (Ghosh, Hajishirzi and Schmidt 2023, arXiv:2310.11513) without mmdet: its prompts, its rules, its results. Torch-free."""
