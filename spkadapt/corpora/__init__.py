"""Corpora, one module each: `prepare(root)` reads (or makes) one and returns its manifest and trials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from spkadapt.corpora import speechocean762, synthetic, wuw2
from spkadapt.manifest import Manifest
from spkadapt.trials import Trials

Prepared = tuple[Manifest, Trials | None]

CORPORA: dict[str, Callable[[Path], Prepared]] = {
    "speechocean762": speechocean762.prepare,
    "synthetic": synthetic.prepare,
    "wuw2": wuw2.prepare,
}
