variable "region" {
  description = "Where everything lies; choose the one nearest to the devices."
  type        = string
  default     = "us-east-1"

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region is none of AWS's, such as eu-central-1."
  }
}

variable "name" {
  description = "What every resource's name begins with; two installations in one account need two names."
  type        = string
  default     = "okko"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name must have 3 to 20 small letters, digits and dashes, and begin with a letter."
  }
}

variable "tags" {
  description = "Further tags for everything, such as a cost centre."
  type        = map(string)
  default     = {}

  validation {
    condition     = length(setintersection(keys(var.tags), ["project", "managed-by"])) == 0
    error_message = "tags must not name project or managed-by; both are set from name."
  }
}

variable "email" {
  description = "Who hears of costs and of messages that could not be handled."
  type        = string

  validation {
    condition     = can(regex("^[^@\\s]+@[^@\\s]+\\.[^@\\s]+$", var.email))
    error_message = "email is not an address."
  }
}

variable "max_usd_per_month" {
  description = "What the budget alarm is set to; an alarm comes hours late, the cap is max_jobs_per_month."
  type        = number
  default     = 10

  validation {
    condition     = var.max_usd_per_month >= 1 && var.max_usd_per_month <= 10000
    error_message = "max_usd_per_month must be between 1 and 10000."
  }
}

variable "max_jobs_per_month" {
  description = "No more jobs are started in 30 days; okko cloud up --aws works it out from max_usd_per_month and what a job can cost at most."
  type        = number
  default     = 30

  validation {
    condition     = var.max_jobs_per_month >= 1
    error_message = "max_jobs_per_month must be at least 1."
  }
}

variable "budget_by_tag" {
  description = "Let the budget alarm count only what is tagged project=NAME; the tag must be activated for cost allocation first, else nothing is counted."
  type        = bool
  default     = false
}

variable "trigger_zip" {
  description = "The trigger's code, as okko cloud up --aws makes it."
  type        = string

  validation {
    condition     = endswith(var.trigger_zip, ".zip")
    error_message = "trigger_zip is not a .zip file."
  }
}

variable "image" {
  description = "The training image; empty: the one in this installation's repository, tagged image_tag."
  type        = string
  default     = ""
}

variable "image_tag" {
  description = "Which image of this installation's repository; a tag names one image for ever."
  type        = string
  default     = "1"

  validation {
    condition     = can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.image_tag))
    error_message = "image_tag is no tag of an image."
  }
}

variable "architecture" {
  description = "Processor of the training job; ARM64 is a fifth cheaper and needs an image for it."
  type        = string
  default     = "X86_64"

  validation {
    condition     = contains(["X86_64", "ARM64"], var.architecture)
    error_message = "architecture must be X86_64 or ARM64."
  }
}

variable "spot" {
  description = "Train on Fargate Spot: about a third of the price, may be interrupted, and is tried again then."
  type        = bool
  default     = false
}

variable "job_vcpus" {
  description = "Processors of the training job; one job runs at a time."
  type        = number
  default     = 4

  validation {
    condition     = contains([1, 2, 4, 8, 16], var.job_vcpus)
    error_message = "job_vcpus must be 1, 2, 4, 8 or 16: Fargate has no others."
  }
}

variable "job_memory_gb" {
  description = "Memory of the training job in GiB."
  type        = number
  default     = 8

  validation {
    condition     = var.job_memory_gb >= 2 * var.job_vcpus && var.job_memory_gb <= min(8 * var.job_vcpus, 120) && var.job_memory_gb % (var.job_vcpus == 16 ? 8 : var.job_vcpus == 8 ? 4 : 1) == 0
    error_message = "job_memory_gb must be 2 to 8 GiB for each processor (in steps of 4 for 8 processors, of 8 for 16)."
  }
}

variable "job_minutes" {
  description = "After so many minutes a job is killed, whatever it does."
  type        = number
  default     = 60

  validation {
    condition     = var.job_minutes >= 1 && var.job_minutes <= 1440
    error_message = "job_minutes must be between 1 and 1440."
  }
}

variable "job_attempts" {
  description = "How often a job that was interrupted, or that AWS could not start, is started, at most."
  type        = number
  default     = 3

  validation {
    condition     = var.job_attempts >= 1 && var.job_attempts <= 10
    error_message = "job_attempts must be between 1 and 10."
  }
}

variable "quiet_s" {
  description = "Training begins when no photo has come for so many seconds."
  type        = number
  default     = 600

  validation {
    condition     = var.quiet_s >= 1 && var.quiet_s <= 86400
    error_message = "quiet_s must be between 1 and 86400."
  }
}

variable "at_most_s" {
  description = "Training begins so many seconds after the first new photo at the latest, even if more keep coming."
  type        = number
  default     = 3600

  validation {
    condition     = var.at_most_s >= var.quiet_s && var.at_most_s <= 604800
    error_message = "at_most_s must be at least quiet_s, and at most 604800."
  }
}

variable "devices" {
  description = "Names of devices (outbox.device in their configuration) that may upload under their own name and fetch models."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for device in var.devices : can(regex("^[A-Za-z0-9_-][A-Za-z0-9._-]{0,39}$", device))])
    error_message = "devices: a name has 1 to 40 letters, digits, dots, dashes and underscores, and does not begin with a dot."
  }
}

variable "unlabelled_days" {
  description = "Frames that devices sent and nobody labelled are deleted after so many days."
  type        = number
  default     = 90

  validation {
    condition     = var.unlabelled_days >= 1
    error_message = "unlabelled_days must be at least 1."
  }
}

variable "old_versions_days" {
  description = "What was overwritten or deleted can be brought back for so many days."
  type        = number
  default     = 30

  validation {
    condition     = var.old_versions_days >= 1
    error_message = "old_versions_days must be at least 1."
  }
}

variable "signing_key" {
  description = "Make a KMS key that training jobs sign models with (a dollar a month); without it, an image is needed that brings its keys."
  type        = bool
  default     = true
}

variable "root_sha256" {
  description = "SHA-256 of the root.json that okko registry init wrote: which registry jobs believe. Empty: there is none yet, and jobs fail saying so."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^([0-9a-f]{64})?$", var.root_sha256))
    error_message = "root_sha256 must be 64 hexadecimal digits."
  }
}

variable "delete_photos_and_models" {
  description = "Lets terraform destroy delete buckets that are not empty; okko cloud down sets it when told to."
  type        = bool
  default     = false
}
