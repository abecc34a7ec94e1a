"""Small MCP servers that leak in one way each, and their twins that do not, by leak class.

Standard library only, so that a start costs nothing. Over stdio, or over HTTP when PORT is set. Each
variant is a class: its tools are methods whose parameters are texts unless `schemas` says otherwise.
`python -m mutants NAME leaky|clean` serves one.
"""

from importlib import import_module

from .particular import (
    Particular,
    ParticularAndPages,
    ParticularBeforeItAsks,
    ParticularElsewhere,
    SaysTheSame,
    TokenOfAnotherName,
    WantsTheRealService,
    WithoutItsEngine,
)
from .server import Variant
from .slow import Slow

MODULES = [
    import_module(f"{__name__}.{name}")
    for name in (
        "claims", "databases", "files", "history", "identifiers", "notifications", "programs", "races",
        "secrets", "sessions", "state", "tokens",
    )
]  # fmt: skip
VARIANTS = {
    kind.__name__: kind
    for module in MODULES
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Variant) and kind is not Variant
}
SERVED = {
    **VARIANTS, "Particular": Particular, "ParticularAndPages": ParticularAndPages,
    "ParticularElsewhere": ParticularElsewhere, "Slow": Slow,
    "ParticularBeforeItAsks": ParticularBeforeItAsks, "SaysTheSame": SaysTheSame,
    "WantsTheRealService": WantsTheRealService,
    "TokenOfAnotherName": TokenOfAnotherName, "WithoutItsEngine": WithoutItsEngine,
}  # fmt: skip
