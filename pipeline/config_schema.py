"""The JSON schema of a configuration, with which editors complete and check a run's YAML file."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from pipeline.config_keys import meaning_of


def schema_of(config: type[BaseModel]) -> dict[str, Any]:
    """Return the schema (draft 2020-12) of a configuration, with the meaning of each key as its description."""
    return {"$schema": GenerateJsonSchema.schema_dialect, **config.model_json_schema(schema_generator=_WithMeanings)}


class _WithMeanings(GenerateJsonSchema):
    """Describes every property by the text next to its field, like `invertmill config`."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Return the schema of one section."""
        made = super().model_schema(schema)
        for name, value in made.get("properties", {}).items():
            if meaning := meaning_of(schema["cls"], name):
                value["description"] = meaning
        return made
