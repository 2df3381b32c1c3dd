"""The two kinds of documents that are read from outside, as frozen base models."""

from typing import Self

from pydantic import BaseModel, ConfigDict

_set = object.__setattr__


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True)

    def replace(self, **changes: object) -> Self:
        """
        Return a copy with *changes*, unvalidated; the document itself where they change nothing.

        As ``model_copy``, in a third of its time: a tick of an agent asks for thirty, most of which change nothing.

        Raises:
            KeyError: there is no such field.
        """
        own = self.__dict__
        for name, value in changes.items():
            if own[name] != value:
                break
        else:
            return self
        copy = object.__new__(type(self))
        _set(copy, "__dict__", own | changes)
        _set(copy, "__pydantic_fields_set__", self.__pydantic_fields_set__ | changes.keys())
        _set(copy, "__pydantic_extra__", None)
        _set(copy, "__pydantic_private__", None)
        return copy


class StrictDocument(_Document):
    """Written by an operator: an unknown field is a mistake, and refused by name (design.md, section 3)."""

    model_config = ConfigDict(extra="forbid")


class TolerantDocument(_Document):
    """Written by Tidegate, perhaps by a later version of the same form: unknown fields are left out."""

    model_config = ConfigDict(extra="ignore")
