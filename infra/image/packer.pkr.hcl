# The machine image: a stock Debian 12 with all that both roles need. Build it in the root of the repository:
#
#   packer init infra/image/packer.pkr.hcl
#   packer build -var region=us-east-1 infra/image/packer.pkr.hcl
#
# The last line it prints names the AMI; docs/infrastructure.md says what to do with it.

packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.3.0"
    }
  }
}

variable "region" {
  type    = string
  default = "us-east-1"
}

variable "consul_version" {
  type        = string
  default     = "1.22.*"
  description = "Of HashiCorp's apt package."
}

locals {
  stamp = formatdate("YYYYMMDD-hhmm", timestamp())
}

source "amazon-ebs" "tidegate" {
  region        = var.region
  instance_type = "t3.small"
  ssh_username  = "admin"
  ami_name      = "tidegate-${local.stamp}"

  source_ami_filter {
    owners      = ["136693071363"] # Debian
    most_recent = true
    filters = {
      name                = "debian-12-amd64-*"
      virtualization-type = "hvm"
      root-device-type    = "ebs"
    }
  }

  launch_block_device_mappings {
    device_name           = "/dev/xvda" # image.root_device in the environments
    volume_type           = "gp3"
    volume_size           = 8
    encrypted             = true
    delete_on_termination = true
  }

  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  tags = {
    Project = "tidegate"
    Source  = "{{ .SourceAMIName }}"
  }
}

build {
  sources = ["source.amazon-ebs.tidegate"]

  provisioner "shell" {
    inline = ["mkdir -p /tmp/tidegate"]
  }

  dynamic "provisioner" {
    labels   = ["file"]
    for_each = [
      "agent", "haproxy", "infra", "systemd", "pyproject.toml", "README.md", "LICENSE",
      "requirements.lock", "requirements-infra.lock", "requirements-build.lock",
    ]
    content {
      source      = provisioner.value
      destination = "/tmp/tidegate/"
    }
  }

  provisioner "shell" {
    execute_command = "sudo env {{ .Vars }} bash '{{ .Path }}'"
    environment_vars = [
      "DEBIAN_FRONTEND=noninteractive",
      "CONSUL=${var.consul_version}",
      "REGION=${var.region}",
    ]
    inline = [
      "set -eu",
      "cloud-init status --wait >/dev/null || true",
      "apt-get update -qq && apt-get install -y -qq --no-install-recommends ca-certificates curl gpg >/dev/null",
      # Consul: Debian has none.
      "curl -fsSL https://apt.releases.hashicorp.com/gpg | gpg --dearmor -o /usr/share/keyrings/hashicorp.gpg",
      "echo \"deb [signed-by=/usr/share/keyrings/hashicorp.gpg] https://apt.releases.hashicorp.com bookworm main\" >/etc/apt/sources.list.d/hashicorp.list",
      "apt-get update -qq && apt-get install -y -qq --no-install-recommends \"consul=$CONSUL\" >/dev/null",
      # HashiCorp's package brings a unit of its own, which nobody is to start.
      "systemctl disable -q consul.service || true",
      # Session Manager: Debian's images lack its agent.
      "curl -fsSL -o /tmp/ssm.deb https://s3.$REGION.amazonaws.com/amazon-ssm-$REGION/latest/debian_amd64/amazon-ssm-agent.deb",
      "dpkg -i /tmp/ssm.deb >/dev/null && systemctl enable -q amazon-ssm-agent.service",
      "bash /tmp/tidegate/infra/image/provision.sh aws",
      # What belongs to this one machine does not belong into the image.
      "rm -rf /tmp/tidegate /tmp/ssm.deb /etc/tidegate/* /var/lib/cloud /root/.cache",
      "truncate -s 0 /etc/machine-id",
    ]
  }
}
