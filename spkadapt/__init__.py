"""Speaker recognition in a recording domain that has no speaker labels.

The package reads in the order in which the data flows::

    audio → features → pretrain → backbone → adapt (speaker loss + λ · alignment) → embed → backend → score
    → metrics → report

A module imports only from modules before it in that flow; `pipeline` wires them, `cli` calls them.
"""

__version__ = "0.1.0"
