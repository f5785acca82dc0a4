"""Panels of ``proponent --help``, in the order of use."""

from __future__ import annotations

USE = "From training to explanations"
WHAT_IF = "Chosen training examples"
CHECK = "Is it faithful, is it whole"
LIFE = "The life of an index"
