"""How codes are found. To add a method: one file with a `MethodSource`, and its name in the union."""

from stages.inversion.methods.optimise import Optimise

__all__ = ["Method", "Optimise"]

Method = Optimise
"""With a second method: `Annotated[Optimise | Encode, Field(discriminator="kind")]`."""
