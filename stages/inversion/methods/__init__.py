"""How codes are found. To add a method: one file with a `MethodSource`, and its name in the union."""

from typing import Annotated

from pydantic import Field

from stages.inversion.methods.encode import Encode
from stages.inversion.methods.gaussian_prior import GaussianPrior
from stages.inversion.methods.hybrid import Hybrid
from stages.inversion.methods.optimise import Optimise
from stages.inversion.methods.pivotal import Pivotal
from stages.inversion.methods.sam_encoder import FromSamEncoder

__all__ = ["Encode", "FromSamEncoder", "GaussianPrior", "Hybrid", "Method", "Optimise", "Pivotal"]

Method = Annotated[Optimise | GaussianPrior | Hybrid | Encode | Pivotal | FromSamEncoder, Field(discriminator="kind")]
