# Debian 12, Debian 13 and Ubuntu 24.04. The rest is shared with Amazon Linux: ../common.

variable "distribution" {
  type        = string
  description = "One of debian-12, debian-13, ubuntu-24.04."
  default     = "debian-12"
  validation {
    condition     = contains(["debian-12", "debian-13", "ubuntu-24.04"], var.distribution)
    error_message = "The distribution must be one of debian-12, debian-13, ubuntu-24.04."
  }
}

variable "docker_source" {
  type        = string
  description = "distribution: its own docker.io. docker: docker-ce from Docker's repository."
  default     = "distribution"
  validation {
    condition     = contains(["distribution", "docker"], var.docker_source)
    error_message = "The docker_source must be one of distribution, docker."
  }
}

locals {
  distribution  = var.distribution
  docker_source = var.docker_source

  # The name that Debian and Ubuntu use.
  cpu = var.architecture == "x86_64" ? "amd64" : var.architecture

  images = {
    "debian-12" = {
      owner       = "136693071363"
      name        = "debian-12-${local.cpu}-*"
      user        = "admin"
      root_device = "/dev/xvda"
    }
    "debian-13" = {
      owner       = "136693071363"
      name        = "debian-13-${local.cpu}-*"
      user        = "admin"
      root_device = "/dev/xvda"
    }
    "ubuntu-24.04" = {
      owner       = "099720109477"
      name        = "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-${local.cpu}-server-*"
      user        = "ubuntu"
      root_device = "/dev/sda1"
    }
  }
  image = local.images[var.distribution]
}
