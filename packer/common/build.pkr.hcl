locals {
  built = timestamp()

  # skep_0.2.0-1_amd64.deb, skep-0.2.0-1.x86_64.rpm: 0.2.0
  version = regex_replace(basename(var.skep_package), "^[^0-9]*([0-9]+[.][0-9]+[.][0-9]+).*$", "$1")
  package = "/tmp/${basename(var.skep_package)}"

  tags = merge({
    Name                = "skep ${local.version} on ${local.distribution}"
    "skep:version"      = local.version
    "skep:distribution" = local.distribution
  }, var.tags)

  own_cloud = var.ec2_endpoint != null
}

source "amazon-ebs" "skep" {
  ami_name        = "skep-${local.version}-${local.distribution}-${var.architecture}-${formatdate("YYYYMMDD-hhmmss", local.built)}"
  ami_description = "skep ${local.version} and Docker on ${local.distribution}, ${var.architecture}"
  ami_regions     = var.ami_regions
  ami_users       = var.ami_users
  tags            = local.tags
  snapshot_tags   = local.tags
  run_tags        = local.tags
  run_volume_tags = local.tags

  # begin: unknown to Packer before 1.9
  # The instances of this image use IMDSv2 only, in every launch. An image cannot request tags in the metadata: set
  # InstanceMetadataTags in the launch template.
  imds_support = "v2.0"

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    instance_metadata_tags      = "enabled"
  }

  # As seen by checkip.amazonaws.com.
  temporary_security_group_source_public_ip = var.ssh_from == null && var.ec2_endpoint == null
  # end: unknown to Packer before 1.9

  region                      = var.region
  instance_type               = var.instance_type != null ? var.instance_type : var.architecture == "arm64" ? "t4g.small" : "t3.small"
  subnet_id                   = var.subnet_id
  associate_public_ip_address = var.public_ip
  source_ami                  = var.source_ami
  ssh_username                = var.ssh_username != null ? var.ssh_username : local.image.user
  ssh_interface               = var.ssh_interface
  ssh_host                    = var.ssh_host
  ssh_keypair_name            = var.ssh_keypair_name
  ssh_private_key_file        = var.ssh_private_key_file
  ssh_timeout                 = "10m"
  custom_endpoint_ec2         = var.ec2_endpoint
  skip_region_validation      = local.own_cloud
  skip_credential_validation  = local.own_cloud
  skip_metadata_api_check     = local.own_cloud

  temporary_security_group_source_cidrs = var.ssh_from

  dynamic "source_ami_filter" {
    for_each = var.source_ami == null ? [local.image] : []
    content {
      most_recent = true
      owners      = [source_ami_filter.value.owner]
      filters = {
        name                = source_ami_filter.value.name
        architecture        = var.architecture
        root-device-type    = "ebs"
        virtualization-type = "hvm"
      }
    }
  }

  launch_block_device_mappings {
    device_name           = local.image.root_device
    volume_size           = var.volume_size
    volume_type           = "gp3"
    iops                  = 3000
    throughput            = 125
    encrypted             = true
    kms_key_id            = var.kms_key
    delete_on_termination = true
  }
}

build {
  sources = ["source.amazon-ebs.skep"]

  provisioner "file" {
    source      = var.skep_package
    destination = local.package
  }

  provisioner "shell" {
    scripts = [for name in [
      "10-base",
      "20-docker",
      "30-daemon",
      "40-logs",
      "45-shell",
      "50-skep",
      "60-firewall",
      "90-clean",
      "99-verify",
    ] : "${path.root}/../provision/${name}.sh"]
    execute_command = "sudo env {{ .Vars }} bash {{ .Path }}"
    environment_vars = [
      "BRIDGE_POOL=${var.bridge_pool}",
      "CONTAINER_LOG_SIZE=${var.container_log_size}",
      "DOCKER_SOURCE=${local.docker_source}",
      "DOCKER_VERSION=${var.docker_version}",
      "JOURNAL_SIZE=${var.journal_size}",
      "METADATA_FOR_CONTAINERS=${var.metadata_for_containers}",
      "OVERLAY_POOL=${var.overlay_pool}",
      "PACKAGE=${local.package}",
      "SSM_AGENT_SHA256=${var.ssm_agent_sha256}",
      "SSM_AGENT_VERSION=${var.ssm_agent_version}",
      "UPGRADE=${var.upgrade}",
    ]
  }

  post-processor "manifest" {
    output = var.manifest
    custom_data = {
      version      = local.version
      distribution = local.distribution
      architecture = var.architecture
    }
  }
}
