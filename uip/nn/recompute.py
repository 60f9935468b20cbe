"""`recomputed_once` under its former address."""

from __future__ import annotations

from uip.ops.recompute import recomputed_once as recomputed_once
