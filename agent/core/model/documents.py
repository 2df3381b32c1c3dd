"""The two kinds of documents that are read from outside, as frozen base models."""

from pydantic import BaseModel, ConfigDict


class StrictDocument(BaseModel):
    """Written by an operator: an unknown field is a mistake, and refused by name (design.md, section 3)."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TolerantDocument(BaseModel):
    """Written by Tidegate, perhaps by a later version of the same form: unknown fields are left out."""

    model_config = ConfigDict(extra="ignore", frozen=True)
