"""What is wrong with a document: the field, the words, and never the value."""

import pytest
from pydantic import ValidationError

from agent.core.model.field_problems import field_problems
from agent.core.model.spec import RunSpec


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"comand": []}, "comand: unknown key"),
        ({"env": {"A B": "s3cret"}}, "env"),
        ({"probe": {"status": "s3cret"}}, "probe.status"),
        ("s3cret", "document: "),
    ],
)
def test_the_field_is_named_and_its_value_is_not_shown(document: object, text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RunSpec.model_validate(document)
    shown = [problem.text() for problem in field_problems(caught.value)]
    assert shown[0].startswith(text)
    assert "s3cret" not in str(shown)
    assert "Value error" not in str(shown)
