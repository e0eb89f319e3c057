"""The phones that synthetic speech is strung from: published formants of vowels, and targets of consonants."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Phone(NamedTuple):
    """What one stretch of speech aims for.

    `formants` are F1-F3 in Hz of an average man; `voicing` and `frication` are levels in dB, -inf for none;
    `centre` and `width` (Hz) shape the frication; `duration` is in seconds; `damping` widens all bandwidths.
    """

    formants: tuple[float, ...]
    voicing: float
    frication: float = -np.inf
    centre: float = 2500.0
    width: float = 1500.0
    duration: float = 0.09
    damping: float = 1.0


# Average formants of 33 men and 28 women: Peterson & Barney (1952), table II.
VOWELS: dict[str, dict[str, tuple[float, float, float]]] = {
    "m": {
        "i": (270, 2290, 3010),
        "ɪ": (390, 1990, 2550),
        "ɛ": (530, 1840, 2480),
        "æ": (660, 1720, 2410),
        "ɑ": (730, 1090, 2440),
        "ɔ": (570, 840, 2410),
        "ʊ": (440, 1020, 2240),
        "u": (300, 870, 2240),
        "ʌ": (640, 1190, 2390),
        "ɝ": (490, 1350, 1690),
    },
    "f": {
        "i": (310, 2790, 3310),
        "ɪ": (430, 2480, 3070),
        "ɛ": (610, 2330, 2990),
        "æ": (860, 2050, 2850),
        "ɑ": (850, 1220, 2810),
        "ɔ": (590, 920, 2710),
        "ʊ": (470, 1160, 2680),
        "u": (370, 950, 2670),
        "ʌ": (760, 1400, 2780),
        "ɝ": (500, 1640, 1960),
    },
}

FEMALE_SCALE = 1.17  # mean ratio of the women's formants to the men's in the table above
_NONE = -np.inf  # dB


def _stop(formants: tuple[float, float, float], voicing: float, centre: float) -> tuple[Phone, Phone]:
    """A closure, voiced or not, and the burst that ends it."""
    closure = Phone(formants, voicing, duration=0.06, damping=2.0)
    return closure, Phone(formants, voicing, -13, centre, 0.5 * centre, 0.02)


# Formant loci of an average man: Klatt (1980), tables II and III. Levels, centres and durations are our own.
CONSONANTS: dict[str, tuple[Phone, ...]] = {
    "w": (Phone((290, 610, 2150), -6, duration=0.06),),
    "j": (Phone((260, 2070, 3020), -6, duration=0.06),),
    "r": (Phone((310, 1060, 1380), -5, duration=0.07),),
    "l": (Phone((310, 1050, 2880), -5, duration=0.07),),
    "m": (Phone((480, 1270, 2130), -9, duration=0.07, damping=2.5),),
    "n": (Phone((480, 1340, 2470), -9, duration=0.07, damping=2.5),),
    "f": (Phone((340, 1100, 2080), _NONE, -22, 5000, 6000),),
    "s": (Phone((320, 1390, 2530), _NONE, -12, 5800, 1800),),
    "ʃ": (Phone((300, 1840, 2750), _NONE, -10, 3100, 1300),),
    "v": (Phone((220, 1100, 2080), -12, -26, 5000, 6000, 0.06),),
    "z": (Phone((240, 1390, 2530), -13, -18, 5800, 1800, 0.07),),
    "p": _stop((400, 1100, 2150), _NONE, 900),
    "t": _stop((400, 1600, 2600), _NONE, 4200),
    "k": _stop((300, 1990, 2850), _NONE, 1900),
    "b": _stop((200, 1100, 2150), -20, 900),
    "d": _stop((200, 1600, 2600), -20, 4200),
    "g": _stop((200, 1990, 2850), -20, 1900),
}
PAUSE = Phone((500, 1500, 2500), _NONE, duration=0.15)
