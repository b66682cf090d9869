# The training job: a container that lives for minutes, one at a time, killed when it takes too long.

locals {
  image = var.image != "" ? var.image : "${aws_ecr_repository.train.repository_url}:${var.image_tag}"

  # Exit codes by which the container says that it should be started again: another worker was at it, or it was told to
  # end, as on Spot.
  again = ["75", "143"]
}

resource "aws_cloudwatch_log_group" "job" {
  name              = "/${var.name}/jobs"
  retention_in_days = 30
}

data "aws_iam_policy_document" "tasks_assume" {
  statement {
    sid     = "TheContainerAlone"
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

# What starts the container: fetches the image, opens the log.
resource "aws_iam_role" "start" {
  name               = "${var.name}-start"
  assume_role_policy = data.aws_iam_policy_document.tasks_assume.json
}

data "aws_iam_policy_document" "start" {
  statement {
    sid       = "LogInToTheImagesOfThisAccount"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"] # the action knows no resources
  }

  statement {
    sid       = "FetchTheImage"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = [aws_ecr_repository.train.arn]
  }

  statement {
    sid       = "WriteTheLog"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.job.arn}:*"]
  }
}

resource "aws_iam_role_policy" "start" {
  name   = "fetch-image-and-log"
  role   = aws_iam_role.start.id
  policy = data.aws_iam_policy_document.start.json
}

# What runs in the container: reads photos, keeps its own notes, publishes.
resource "aws_iam_role" "job" {
  name               = "${var.name}-job"
  assume_role_policy = data.aws_iam_policy_document.tasks_assume.json
}

data "aws_iam_policy_document" "job" {
  statement {
    sid       = "ReadPhotos"
    actions   = ["s3:GetObject"]
    resources = ["${local.photos_arn}*"]
  }

  statement {
    sid       = "KeepNotesAndTheLock"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = ["${local.training_arn}*"]
  }

  # All of the bucket: of a missing object, S3 says so only to those who may list without condition.
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.this.arn]
  }

  statement {
    sid       = "PublishModels"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = ["${local.registry_arn}*"]
  }

  dynamic "statement" {
    for_each = aws_kms_key.signing[*].arn

    content {
      sid       = "SignModels"
      actions   = ["kms:Sign"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role_policy" "job" {
  name   = "photos-to-models"
  role   = aws_iam_role.job.id
  policy = data.aws_iam_policy_document.job.json
}

resource "aws_batch_compute_environment" "this" {
  compute_environment_name = var.name
  type                     = "MANAGED"

  compute_resources {
    type               = var.spot ? "FARGATE_SPOT" : "FARGATE"
    max_vcpus          = var.job_vcpus # one job at a time
    subnets            = aws_subnet.this[*].id
    security_group_ids = [aws_security_group.job.id]
  }
}

resource "aws_batch_job_queue" "this" {
  name     = var.name
  state    = "ENABLED"
  priority = 1

  compute_environment_order {
    order               = 1
    compute_environment = aws_batch_compute_environment.this.arn
  }
}

resource "aws_batch_job_definition" "train" {
  name                  = "${var.name}-train"
  type                  = "container"
  platform_capabilities = ["FARGATE"]
  propagate_tags        = true

  container_properties = jsonencode({
    image            = local.image
    command          = ["job"]
    jobRoleArn       = aws_iam_role.job.arn
    executionRoleArn = aws_iam_role.start.arn

    resourceRequirements = [
      { type = "VCPU", value = tostring(var.job_vcpus) },
      { type = "MEMORY", value = tostring(1024 * var.job_memory_gb) },
    ]

    linuxParameters              = { initProcessEnabled = true } # so that signals arrive and children are buried
    runtimePlatform              = { operatingSystemFamily = "LINUX", cpuArchitecture = var.architecture }
    networkConfiguration         = { assignPublicIp = "ENABLED" }
    fargatePlatformConfiguration = { platformVersion = "1.4.0" }

    environment = [
      { name = "OKKO_PLACE", value = "s3://${aws_s3_bucket.this.id}" },
      { name = "OKKO_REGISTRY_ROOT_SHA256", value = var.root_sha256 },
    ]

    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.job.name
        awslogs-region        = var.region
        awslogs-stream-prefix = "train"
      }
    }
  })

  timeout {
    attempt_duration_seconds = 60 * var.job_minutes
  }

  # Started again only if something from outside ended it; a job that failed by itself would fail again.
  retry_strategy {
    attempts = var.job_attempts

    dynamic "evaluate_on_exit" {
      for_each = local.again

      content {
        on_exit_code = evaluate_on_exit.value
        action       = "RETRY"
      }
    }

    evaluate_on_exit {
      on_status_reason = "Your Spot Task was interrupted*"
      action           = "RETRY"
    }

    evaluate_on_exit {
      on_reason = "CannotPullContainerError*"
      action    = "RETRY"
    }

    evaluate_on_exit {
      on_reason = "*"
      action    = "EXIT"
    }
  }
}
