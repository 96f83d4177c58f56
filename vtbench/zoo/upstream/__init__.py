"""Systems that run through their authors' own code, each in a worker process with its own interpreter and packages.

Their top-level names collide and their pins conflict, so nothing of theirs is imported here: `worker.py` runs in their interpreter and exchanges arrays
with `process.py` over a pipe, and a **driver** (``drivers/NAME.py``) translates between the two. `adapter.py` makes a `vtbench.api.Tokenizer` of it, `place.py` knows where
environments lie, `setup.py` makes them when told. docs/zoo.md tells how to write a driver; the contract:

A driver is one file, named by its card's ``[upstream] driver``. Its top imports only the standard library, NumPy and ``vtbench_driving`` (`driving.py`: checkpoints, pixels, noise) or another file of `worker.SHARED`, and nothing of vtbench; the authors' package and torch are
imported inside its functions. It has ``VERSION`` (an integer, raised when equal input would give other values) and::

    def load(*, source, weights, device, dtype, **params) -> model

source: the folder of the authors' checkout, already on ``sys.path`` together with the card's ``[upstream] subfolders``. weights: role -> path, as the card's ``[[files]]``
say. device: ``cpu``, ``cuda:0``. dtype: ``float32``, ``bfloat16`` or ``float16``. params: keyword-only, with defaults and annotations; they are what a user may set after ``--model NAME:``.
The model that it returns has

    describe() -> dict              see `DESCRIPTION`
    encode(images, *, seeds, sample=False, captions=None) -> dict of arrays
    decode(arrays, *, seeds, budget=None, captions=None) -> float32 [B, 3, H, W] in [0, 1]
    codebook() -> float [K, dims]   optional

images: float32 ``[B, 3, H, W]`` in [0, 1]; the driver converts to its network's range. seeds: one integer of 63 bits an image; noise is drawn per image on the CPU from them, so that it does not depend on the batch. sample: draw from a
posterior instead of taking its mode. captions: one text or None an image, only for models that say `needs_caption`; encode and decode may leave out arguments that they have no use for, by ending in
``**options``. encode returns one array a stream of `describe`: ``[B, N]`` or ``[B, h, w]`` (``[..., C]`` with C codebooks or bits; channels last when continuous), and int `lengths` ``[B]`` where images use
different numbers of positions (-1 marks a position without a token). decode gets the same arrays in the same shapes; cut to ``[B, budget]`` where a prefix was asked for.

Exceptions tell what went wrong: `ModuleNotFoundError` (the environment lacks a package), `FileNotFoundError` (weights), `ValueError` in `load` (weights or a parameter that do not fit); others are named as they are.

    def small(*, source, folder, seed) -> {"weights": {role: path}, "params": {...}}

writes a tiny configuration with random weights into `folder`, in the published layout, for tests and for trying an environment.
"""

DESCRIPTION: dict[str, str] = {
    "streams": "list of tables: the fields of `vtbench.api.Stream` (name, kind, layout, sizes, shape, ordered, residual, shared_index)",
    "resolution": "the only side that it takes, in pixels; absent or None: any multiple of `multiple`",
    "multiple": "sides are multiples of it (default 1); the core pads",
    "prefix": "whether the first k tokens decode (default false)",
    "max_tokens": "the most tokens of an image",
    "budgets": "the budgets that make sense; absent: any up to max_tokens",
    "nmax": "the greatest length, where `lengths` vary and the length must be sent too",
    "stochastic": "whether encode or decode draws noise (default false)",
    "needs_caption": "whether encode or decode wants captions (default false)",
    "parameters": "of each half: {encoder: n, decoder: n}",
    "notes": "list of remarks for people and for the record",
}
"""What `describe` returns: the names and what they mean; `streams` must be there, and no other name may."""
