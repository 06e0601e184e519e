# Amazon Linux 2023. The rest is shared with Debian and Ubuntu: ../common.

locals {
  distribution  = "amazon-linux-2023"
  docker_source = "distribution"

  image = {
    owner       = "137112412989"
    name        = "al2023-ami-2023.*-kernel-6.1-${var.architecture}" # neither minimal nor ECS
    user        = "ec2-user"
    root_device = "/dev/xvda"
  }
}
