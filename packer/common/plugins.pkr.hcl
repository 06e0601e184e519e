# A separate file, because Packer before 1.7 does not support required_plugins: see README.md.
packer {
  required_version = ">= 1.9"

  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.2.2, < 2" # the first whose amazon-ebs supports imds_support
    }
  }
}
