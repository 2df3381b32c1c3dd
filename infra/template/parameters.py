"""Values that change from deployment to deployment, and how the console groups them."""

from typing import Any

from troposphere import Equals, Not, Parameter, Ref

from infra.config import StackConfig

HAS_CERTIFICATE = "HasCertificate"


def parameters(config: StackConfig) -> tuple[Parameter, ...]:
    """Return the stack's parameters; each has a default."""
    return (
        Parameter(
            "ImageId",
            Type="AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>",
            Default=config.image.parameter,
            Description="SSM parameter that holds the id of the machine image",
        ),
        Parameter(
            "CertificateArn",
            Type="String",
            Default="",
            AllowedPattern=r"^(arn:aws[a-z-]*:acm:[a-z0-9-]+:[0-9]{12}:certificate/[0-9a-f-]+)?$",
            ConstraintDescription="an ACM certificate's ARN, or empty for plain HTTP",
            Description="Certificate for HTTPS; HTTP is then redirected. Empty: HTTP only",
        ),
        Parameter(
            "InitialImage",
            Type="String",
            Default="",
            AllowedPattern=r"^[A-Za-z0-9._/@:-]*$",
            ConstraintDescription="an image reference, or empty",
            Description="What a new cluster serves from the start. Empty: the holding page until the first deploy",
        ),
    )


def conditions() -> dict[str, Any]:
    """Return the stack's conditions."""
    return {HAS_CERTIFICATE: Not(Equals(Ref("CertificateArn"), ""))}


def interface() -> dict[str, Any]:
    """Return how CloudFormation's console shows the parameters."""
    return {
        "AWS::CloudFormation::Interface": {
            "ParameterGroups": [
                {"Label": {"default": "Machines"}, "Parameters": ["ImageId"]},
                {"Label": {"default": "Traffic"}, "Parameters": ["CertificateArn", "InitialImage"]},
            ],
            "ParameterLabels": {
                "ImageId": {"default": "Machine image (SSM parameter)"},
                "CertificateArn": {"default": "Certificate"},
                "InitialImage": {"default": "First release"},
            },
        },
    }
