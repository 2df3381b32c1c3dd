"""User-data as a template renders it."""

import re
from typing import Any

from tests.infra.cases import template
from tests.infra.reading import of_type

PSEUDO = {"AWS::StackName": "final-project", "AWS::Region": "us-east-1"}


def rendered(case: str, tier: str) -> str:
    """Return the script as CloudFormation's Sub leaves it."""
    data: Any = of_type(template(case), "EC2::LaunchTemplate")[tier]["LaunchTemplateData"]
    text, own = data["UserData"]["Fn::Base64"]["Fn::Sub"]
    return re.sub(r"\$\{([^}!]+)\}", lambda found: {**PSEUDO, **own}[found[1]], text)
