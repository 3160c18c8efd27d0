"""Esper: neural networks that grow while they train, on an immutable log of everything that happened.

`esper.grow(model, optimizer, ...)` trains and grows a network in a person's own loop, `esper.load(run)` gives that of a
recorded run, and `esper.Metric` says what a network is measured by.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper.cli.load import load
    from esper.metric import Metric
    from esper.weatherlight.grow import grow

__version__ = "0.1.0"
__all__ = ["Metric", "grow", "load"]


def __getattr__(name: str) -> Any:
    """What a script asks for is imported then: `import esper` costs nothing, and no torch."""
    if name == "load":
        from esper.cli.load import load  # noqa: PLC0415 - as above

        return load
    if name == "grow":
        from esper.weatherlight.grow import grow  # noqa: PLC0415 - as above

        return grow
    if name == "Metric":
        from esper.metric import Metric  # noqa: PLC0415 - as above

        return Metric
    raise AttributeError(f"module 'esper' has no attribute {name!r}")
