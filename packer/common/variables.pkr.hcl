# --- Contents of the image ---

variable "skep_package" {
  type        = string
  description = "Path of skep's package: a .deb for Debian and Ubuntu, an .rpm for Amazon Linux. `make package` builds both."
}

variable "architecture" {
  type        = string
  description = "Of the image, and so of the package: x86_64 or arm64."
  default     = "x86_64"
  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "The architecture must be one of x86_64, arm64."
  }
}

variable "docker_version" {
  type        = string
  description = "Of Docker Engine, such as 28.5.2; its beginning is enough. Empty: the newest that its source has."
  default     = ""
}

variable "upgrade" {
  type        = bool
  description = "Whether the distribution's own packages are brought up to date first."
  default     = true
}

variable "overlay_pool" {
  type        = string
  description = "Range of the swarm's overlay networks. Docker's own default, 10.0.0.0/8, begins in the middle of many a VPC."
  default     = "10.128.0.0/9"
}

variable "bridge_pool" {
  type        = string
  description = "Range of the networks on one host: docker0, docker_gwbridge, bridges."
  default     = "172.20.0.0/14"
}

variable "container_log_size" {
  type        = string
  description = "Size of one log file of a container; five are kept."
  default     = "10m"
}

variable "journal_size" {
  type        = string
  description = "The most that the journal takes on disk."
  default     = "500M"
}

variable "metadata_for_containers" {
  type        = bool
  description = "Whether containers reach the instance metadata, and so the node's role; README.md has other ways to credentials."
  default     = false
}

variable "ssm_agent_version" {
  type        = string
  description = "Of Session Manager's agent, such as 3.3.3270.0. Empty: the one of the source image, if it has one; Debian's have none."
  default     = ""
  validation {
    condition     = regex_replace(var.ssm_agent_version, "^[0-9]+[.][0-9]+[.][0-9]+[.][0-9]+$", "") == ""
    error_message = "The ssm_agent_version must be a version such as 3.3.3270.0, or empty: packer/ssm-agent.sh prints the newest."
  }
}

variable "ssm_agent_sha256" {
  type        = string
  description = "Checksum of that version's package; required with ssm_agent_version."
  default     = ""
  validation {
    condition     = regex_replace(var.ssm_agent_sha256, "^[0-9a-f]{64}$", "") == ""
    error_message = "The ssm_agent_sha256 must have 64 digits of 0-9a-f, or be empty."
  }
}

variable "volume_size" {
  type        = number
  description = "GiB of the encrypted root volume."
  default     = 30
}

variable "kms_key" {
  type        = string
  description = "KMS key of the root volume. Not set: the account's default, with which an image cannot be shared."
  default     = null
}

# --- Regions, sharing and names of the image ---

variable "region" {
  type        = string
  description = "Where the image is built. Not set: what the environment or the profile says."
  default     = null
}

variable "ami_regions" {
  type        = list(string)
  description = "Further regions that get a copy."
  default     = []
}

variable "ami_users" {
  type        = list(string)
  description = "Further accounts that may launch it; needs kms_key, and that key shared with them."
  default     = []
}

variable "tags" {
  type        = map(string)
  description = "Further tags of the image, its snapshot and the builder. Keys: letters, digits and +-=.,_:@, or EC2 refuses the builder."
  default     = {}
}

variable "manifest" {
  type        = string
  description = "File that the ids of built images are written to."
  default     = "skep-image.json"
}

# --- The builder ---

variable "instance_type" {
  type        = string
  description = "Of the builder. Not set: t3.small, or t4g.small for arm64."
  default     = null
}

variable "subnet_id" {
  type        = string
  description = "Subnet of the builder; it must reach the package mirrors. Not set: the default VPC."
  default     = null
}

variable "public_ip" {
  type        = bool
  description = "Whether the builder gets a public address. Not set: what the subnet says."
  default     = null
}

variable "ssh_from" {
  type        = list(string)
  description = "Ranges from which the builder answers SSH. Not set: only the public address from which Packer runs."
  default     = null
}

variable "ssh_interface" {
  type        = string
  description = "How Packer reaches the builder: public_ip, private_ip, public_dns or private_dns. Not set: whichever there is."
  default     = null
}

# --- Other images and other clouds; nothing here is needed on AWS ---

variable "source_ami" {
  type        = string
  description = "Image to start from instead of the distribution's newest."
  default     = null
}

variable "ssh_username" {
  type        = string
  description = "User of that image. Not set: the distribution's own."
  default     = null
}

variable "ssh_host" {
  type        = string
  description = "Address of the builder, where the cloud's answer is not the one to use."
  default     = null
}

variable "ssh_keypair_name" {
  type        = string
  description = "Key pair of the builder instead of one made for the build; with ssh_private_key_file."
  default     = null
}

variable "ssh_private_key_file" {
  type        = string
  description = "Private key of ssh_keypair_name."
  default     = null
}

variable "ec2_endpoint" {
  type        = string
  description = "URL of an EC2 that is not Amazon's; region and credentials are then not checked with Amazon."
  default     = null
}
