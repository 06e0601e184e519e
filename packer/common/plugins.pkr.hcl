# A file of its own, because Packer before 1.7 knows no plugins to ask for: see README.md.
packer {
  required_version = ">= 1.9"

  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.2.2, < 2" # the first in which amazon-ebs knows imds_support
    }
  }
}
