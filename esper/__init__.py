"""Esper: neural networks that grow while they train, on an immutable log of everything that happened.

`esper.grow(model, optimizer, ...)` trains and grows a network in a person's own loop. `esper.load(run)` gives the
network of a recorded run and `esper.grown_source(run)` its code; `esper.Metric` says what a network is measured by.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper.cli.load import grown_source, load
    from esper.metric import Metric
    from esper.weatherlight.grow import grow

__version__ = "0.1.0"
__all__ = ["Metric", "grow", "grown_source", "load"]


def __getattr__(name: str) -> Any:
    """What a script asks for is imported then: `import esper` costs nothing, and no torch."""
    if name == "grow":
        from esper.weatherlight.grow import grow  # noqa: PLC0415 - as above

        return grow
    if name == "Metric":
        from esper.metric import Metric  # noqa: PLC0415 - as above

        return Metric
    if name in __all__:
        from esper.cli import load  # noqa: PLC0415 - as above

        return getattr(load, name)
    raise AttributeError(f"module 'esper' has no attribute {name!r}")
